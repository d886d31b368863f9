"""Molecules of the National Cancer Institute as graphs of atoms and bonds, with their polar surface area."""

import csv
import io
from collections import Counter

import numpy as np

from builders.files import Built, in_hash_order, npz
from builders.packages import Source, importable
from lbdl import data

RDKIT = Source("pip", "rdkit", "2026.9.1", "03d09f957367eb4e9cb729ac191a43dbd0926f5ea6dcbf36b14682326130b92d")
BONDS = [name.upper() for name in data.BONDS]  # as RDKit spells them
RAREST = 20  # an element must be in at least so many molecules
HELD_OUT = 500  # molecules to validate, and as many to test


def molecules() -> Built:
    """Each different molecule of at least two atoms, of elements that are not rare, once."""
    importable(RDKIT)
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    lines = RDKIT.files()["rdkit/Data/NCI/first_5k.tpsa.csv"].decode().splitlines()[1:]
    found = {}
    for smiles, area in csv.reader(io.StringIO("\n".join(lines))):
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is not None and molecule.GetNumBonds():
            found.setdefault(Chem.MolToSmiles(molecule), (molecule, float(area)))
    in_molecules = Counter(e for molecule, _ in found.values() for e in {a.GetSymbol() for a in molecule.GetAtoms()})
    elements = sorted((e for e, n in in_molecules.items() if n >= RAREST), key=lambda e: (-in_molecules[e], e))
    usual = [
        (smiles, molecule, area)
        for smiles, (molecule, area) in found.items()
        if {atom.GetSymbol() for atom in molecule.GetAtoms()} <= set(elements)
    ]
    usual = [usual[i] for i in in_hash_order(len(usual), "molecules")]
    arrays = _graphs(usual, elements)
    facts = {"all": len(lines), "molecules": len(usual), "train": len(usual) - 2 * HELD_OUT, "held_out": HELD_OUT}
    facts |= {"atoms": len(arrays["atoms"]), "bonds": len(arrays["bonds"]), "elements": len(elements)}
    borders = np.array([len(usual) - 2 * HELD_OUT, len(usual) - HELD_OUT, len(usual)], np.int32)  # of the splits
    return {"molecules.npz": npz(**arrays, borders=borders)}, facts


def _graphs(usual: list, elements: list[str]) -> dict[str, np.ndarray]:
    atoms, bonds, start = [], [], 0
    for _, molecule, _ in usual:
        for atom in molecule.GetAtoms():
            atoms.append((elements.index(atom.GetSymbol()), atom.GetTotalNumHs(), atom.GetFormalCharge()))
        for bond in molecule.GetBonds():
            ends = start + bond.GetBeginAtomIdx(), start + bond.GetEndAtomIdx()
            bonds.append((*ends, BONDS.index(bond.GetBondType().name)))
        start += molecule.GetNumAtoms()
    return {
        "atoms": np.array(atoms, np.int8),
        "bonds": np.array(bonds, np.int32),
        "atoms_in": np.array([molecule.GetNumAtoms() for _, molecule, _ in usual], np.int16),
        "bonds_in": np.array([molecule.GetNumBonds() for _, molecule, _ in usual], np.int16),
        "area": np.array([area for _, _, area in usual], np.float32),
        "elements": _letters(elements),
        "smiles": _letters([smiles for smiles, _, _ in usual]),
    }


def _letters(lines: list[str]) -> np.ndarray:
    return np.frombuffer("\n".join(lines).encode(), np.uint8)
