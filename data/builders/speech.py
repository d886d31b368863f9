"""Spoken words, 8 kHz 8-bit mu-law: 54 English words, each said once by every synthetic voice and by a human one.

eSpeak NG comes in a wheel, with its voices and without further libraries; flite and the human voice from Debian.
"""

import ctypes
import multiprocessing
import os
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builders.files import Built, npz, table
from builders.packages import CACHE, Source, importable

ESPEAK = Source("pip", "espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d")
FLITE = (
    Source("apt", "flite", "2.2-5", "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9"),
    Source("apt", "libflite1", "2.2-5", "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061"),
    Source("apt", "libasound2", "1.2.8-1+b1", "44c77b076a7b11ae99712439022d822245b1994c435da564ebd320bb676faf4c"),
)
HUMAN = Source(
    "apt",
    "asterisk-core-sounds-en-wav",
    "1.6.1-1",
    "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
)
SCIPY = Source("pip", "scipy", "1.17.1", "43af8d1f3bea642559019edfe64e9b11192a8978efbd1539d7bc2aaa23d92de4")
SOURCES = (ESPEAK, *FLITE, HUMAN)

RATE = 8000  # samples a second: the telephone's

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ALPHABET = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo"]
ALPHABET += ["lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor"]
ALPHABET += ["whiskey", "xray", "yankee", "zulu"]
DAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october"]
MONTHS += ["november", "december"]
WORDS = tuple(dict.fromkeys(DIGITS + ALPHABET + DAYS + MONTHS))  # "november" is in two of them: 54 words

SPELLING = {"xray": "x-ray"}  # flite would spell the one word

RECORDINGS = {word: f"digits/mon-{i}" for i, word in enumerate(MONTHS)}  # where the human says each word
RECORDINGS |= {word: f"phonetic/{word[0]}_p" for word in ALPHABET}
RECORDINGS |= {word: f"digits/day-{i}" for i, word in enumerate(DAYS)}
RECORDINGS |= {word: f"digits/{i}" for i, word in enumerate(DIGITS)}


class Voice(NamedTuple):
    """Who speaks: eSpeak NG's variant, flite's voice or the human, and how."""

    name: str
    engine: str
    accent: str  # what eSpeak NG calls it
    sex: str
    pitch: int  # eSpeak NG's, 0 to 99, normally 50; 0 where it is the voice's own
    rate: int  # eSpeak NG's, in words a minute, normally 175; flite's, as if it were normally 175
    split: str


# A variant is in one split only, with all that share its name but for the number. None has a `breath`: eSpeak NG
# says words otherwise each time with the five variants seen to have one (f2, f3, f5, sandro, victor).
_TABLE = """
slt flite en-us f 0 150 train
slt-slow flite en-us f 0 125 train
rms flite en-us m 0 150 train
kal flite en-us m 0 160 train
kal16 flite en-us m 130 140 train
f1 espeak en-us f 55 155 train
f4 espeak en-gb-scotland f 50 160 train
steph2 espeak en-us f 60 135 train
aunty espeak en-us-nyc f 40 170 train
anika espeak en-us f 45 130 train
linda espeak en-gb-x-gbclan f 35 165 train
m2 espeak en-gb-x-rp m 45 160 train
m5 espeak en-us m 60 150 train
m8 espeak en-029 m 50 165 train
klatt3 espeak en-us m 75 140 train
edward espeak en-gb-x-rp m 40 150 train
mike2 espeak en-us-nyc m 55 160 train
Denis espeak en m 45 145 train
miguel espeak en-us m 70 170 train
paul espeak en-gb-x-gbcwmd m 50 160 train
Nguyen espeak en m 45 150 train
Alex espeak en-029 m 60 150 train
iven4 espeak en-us m 40 165 train
Mario espeak en-gb-scotland m 55 155 train
Gene2 espeak en-us-nyc m 65 175 train
Storm espeak en-us m 50 155 train
max espeak en-gb-x-gbclan m 35 145 train
grandma espeak en-us f 50 145 validation
Andrea espeak en f 45 130 validation
quincy espeak en-us m 55 145 validation
antonio espeak en-gb-x-rp m 50 125 validation
awb flite en-gb-scotland m 0 150 test
Annie espeak en-us f 50 150 test
belinda espeak en-gb-x-rp f 40 160 test
Hugo espeak en-us-nyc m 60 140 test
david espeak en-us m 65 155 test
Allison human en-us f 0 0 human
"""
VOICES = tuple(
    Voice(name, engine, accent, sex, int(pitch), int(rate), split)
    for name, engine, accent, sex, pitch, rate, split in map(str.split, _TABLE.strip().splitlines())
)


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a 16-bit recording, and how many there are in a second."""
    with wave.open(str(path)) as recording:
        return np.frombuffer(recording.readframes(recording.getnframes()), "<i2"), recording.getframerate()


def say_espeak(folder: Path, voice: Voice) -> list[tuple[np.ndarray, int]]:
    """All words by eSpeak NG, in order. What it says depends on all it said before: call this in a new process."""
    if not (folder / "espeak-ng-data/voices/!v" / voice.name).exists():
        raise SystemExit(f"eSpeak NG: no voice {voice.name}")  # it would quietly take another
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    rate = library.espeak_Initialize(2, 0, str(folder).encode(), 0)  # 2: hand over the samples, and play nothing
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count: int, _events) -> int:
        pieces.append(np.ctypeslib.as_array(samples, (count,)).copy() if count else np.zeros(0, np.int16))
        return 0

    library.espeak_SetSynthCallback(keep)
    if library.espeak_SetVoiceByName(f"{voice.accent}+{voice.name}".encode()) != 0:
        raise SystemExit(f"eSpeak NG: no accent {voice.accent}")
    library.espeak_SetParameter(1, voice.rate, 0)
    library.espeak_SetParameter(3, voice.pitch, 0)
    said = []
    for word in WORDS:
        pieces.clear()
        text = SPELLING.get(word, word).encode()
        library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
        said.append((np.concatenate(pieces), rate))
    return said


def say_flite(folders: list[Path], voice: Voice) -> list[tuple[np.ndarray, int]]:
    """All words by flite, a new process for each."""
    (program,) = (found for folder in folders for found in folder.glob("usr/bin/flite"))
    libraries = [str(found) for folder in folders for found in folder.glob("usr/lib/*-linux-gnu")]
    command = [str(program), "-voice", voice.name.split("-")[0], "--setf", f"duration_stretch={175 / voice.rate}"]
    if voice.pitch:
        command += ["--setf", f"int_f0_target_mean={voice.pitch}"]
    said = []
    with tempfile.TemporaryDirectory() as folder:
        for word in WORDS:
            path = Path(folder) / f"{word}.wav"
            environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}
            subprocess.run([*command, "-t", SPELLING.get(word, word), "-o", str(path)], check=True, env=environment)
            said.append(read_wav(path))
    return said


def clean(samples: np.ndarray, rate: int) -> np.ndarray:
    """The same for synthetic and human: 8 kHz, 30 ms of silence at the ends, one loudness."""
    from scipy.signal import resample_poly

    common = np.gcd(rate, RATE)
    x = resample_poly(samples.astype(float), RATE // common, rate // common)
    loudness = np.sqrt(np.convolve(x**2, np.full(80, 1 / 80), "same"))  # over 10 ms
    heard = np.flatnonzero(loudness > 0.01 * loudness.max())  # within 40 dB of the loudest
    x = x[max(0, heard[0] - 240) : heard[-1] + 240]
    return x * 1000 / np.sqrt(np.mean(x**2))  # 30 dB below full scale: loud peaks fit, and quiet sounds are not lost


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Encode 16-bit samples as G.711 does: sign, exponent and four bits of mantissa, all inverted."""
    samples = np.rint(samples).astype(int)
    magnitude = np.minimum(np.abs(samples), 32635) + 132
    exponent = np.searchsorted(2 ** np.arange(8, 15), magnitude, "right")
    mantissa = magnitude >> (exponent + 3) & 15
    return (255 - (128 * (samples < 0) + 16 * exponent + mantissa)).astype(np.uint8)


def speech() -> Built:
    """All recordings, voice after voice, one after another in `audio`, with the offset at which each starts."""
    importable(SCIPY)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        espeak, *flite, human = (source.unpack(Path(folder)) for source in SOURCES)
        said = {voice: say_flite(flite, voice) for voice in VOICES if voice.engine == "flite"}
        jobs = [(espeak / "espeakng_loader", voice) for voice in VOICES if voice.engine == "espeak"]
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # a new process for each voice
            spoken = pool.starmap(say_espeak, jobs, chunksize=1)
        said |= {voice: words for (_, voice), words in zip(jobs, spoken, strict=True)}
        sounds = human / "usr/share/asterisk/sounds/en_US_f_Allison"
        said[VOICES[-1]] = [read_wav(sounds / f"{RECORDINGS[word]}.wav") for word in WORDS]
    recordings = [mu_law(clean(samples, rate)) for voice in VOICES for samples, rate in said[voice]]
    arrays = {
        "audio": np.concatenate(recordings),
        "starts": np.cumsum([0, *map(len, recordings)], dtype=np.int32),
        "word": np.tile(np.arange(len(WORDS), dtype=np.uint8), len(VOICES)),
        "voice": np.repeat(np.arange(len(VOICES), dtype=np.uint8), len(WORDS)),
        "vocabulary": np.frombuffer("\n".join(WORDS).encode(), np.uint8),
    }
    facts = {"words": len(WORDS), "voices": len(VOICES) - 1, "recordings": len(recordings)}
    facts |= {"minutes": len(arrays["audio"]) / RATE / 60}
    facts |= {split: sum(voice.split == split for voice in VOICES) for split in ("train", "validation", "test")}
    return {"speech.npz": npz(**arrays), "speech_voices.csv": table([voice._asdict() for voice in VOICES])}, facts
