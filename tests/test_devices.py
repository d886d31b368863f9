"""The device, the seed, and the measures of time and memory. Devices that this machine lacks are stood in for."""

import random

import numpy as np
import pytest
import torch

from lbdl import device, devices, peak_memory, seconds, seed, synchronize


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends that a machine has these accelerators, some without float64."""

    def pretend(*accelerators, without_float64=()):
        monkeypatch.setattr(devices, "_accelerators", lambda: list(accelerators))
        has = lambda name, dtype: dtype != torch.float64 or name not in without_float64  # noqa: E731
        monkeypatch.setattr(devices, "_has_dtype", has)

    return pretend


def test_the_first_accelerator_that_has_the_number_format_wins_else_the_cpu(machine, capsys):
    machine()
    assert device() == torch.device("cpu")
    assert capsys.readouterr().out == "Computing on: cpu\n"
    machine("cuda", "xpu")
    assert device() == torch.device("cuda")
    machine("mps", "xpu", without_float64=["mps"])
    assert device() == torch.device("mps")
    assert device(needs=torch.float64) == torch.device("xpu")
    machine("mps", without_float64=["mps"])
    assert device(needs=torch.float64) == torch.device("cpu")


def test_accelerators_are_listed_best_first(monkeypatch):
    for where in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(where, "is_available", lambda: True)
    assert devices._accelerators() == ["cuda", "mps", "xpu"]


def test_number_formats_are_tried_out_and_both_kinds_of_refusal_count(monkeypatch):
    assert devices._has_dtype("cpu", torch.float64)
    for refusal in (TypeError("Cannot convert to float64"), RuntimeError("not supported")):

        def refuse(*args, refusal=refusal, **kwargs):
            raise refusal

        monkeypatch.setattr(torch, "zeros", refuse)
        assert not devices._has_dtype("mps", torch.float64)


def test_the_variable_overrides_the_choice_and_an_asked_device_is_never_replaced(machine, monkeypatch):
    machine("cuda", without_float64=["cpu"])
    monkeypatch.setenv(devices.VARIABLE, "cpu")
    assert device() == torch.device("cpu")
    with pytest.raises(ValueError, match=r"LBDL_DEVICE='cpu': expected a device with torch\.float64"):
        device(needs=torch.float64)


@pytest.mark.parametrize("asked", ["gpu", "", "cuda:99", "vulkan", "hpu"])
def test_a_device_that_is_not_there_is_refused_and_those_that_are_get_named(machine, monkeypatch, asked):
    machine()
    monkeypatch.setenv(devices.VARIABLE, asked)
    with pytest.raises(ValueError, match=rf"LBDL_DEVICE='{asked}': expected a device that is there \(cpu\)"):
        device()


def test_under_torchrun_each_process_has_its_own_gpu(machine, monkeypatch):
    machine("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device() == torch.device("cuda:1")


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_seed_fixes_python_numpy_and_torch_and_gives_a_generator_on_the_cpu():
    generator = seed(3)
    first, drawn = draws(), torch.rand(5, generator=generator)
    assert generator.device == torch.device("cpu")
    assert torch.equal(torch.rand(5, generator=seed(3)), drawn)
    assert draws() == first
    assert not torch.equal(torch.rand(5, generator=seed(2**63)), drawn)  # NumPy takes 32 bits only
    assert not set(draws()) & set(first)


@pytest.mark.parametrize("wrong", [-1, 1.0, True, 2**64])
def test_a_seed_that_is_no_whole_number_from_0_up_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"seed: expected a whole number from 0 .*, got {wrong!r}"):
        seed(wrong)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_synchronize_waits_on_accelerators(monkeypatch, kind):
    waits = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda: waits.append(kind))
    synchronize(kind)
    synchronize("cpu")
    assert waits == [kind]


def test_seconds_warms_up_and_waits_for_the_device_before_each_reading_of_the_clock(monkeypatch):
    happened = []
    monkeypatch.setattr(devices, "synchronize", lambda on: happened.append(f"wait for {on}"))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: happened.append("clock") or 0.0)
    seconds(lambda: happened.append("call"), on="cuda", repeats=2)
    assert happened == ["call", *2 * ["wait for cuda", "clock", "call", "wait for cuda", "clock"]]


def test_seconds_is_the_median(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 120])  # calls of 1, 2 and 100 seconds
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    assert seconds(lambda: None, repeats=3) == 2
    with pytest.raises(ValueError, match="expected at least 1 repeat, got 0"):
        seconds(lambda: None, repeats=0)


def test_the_cpu_reports_no_peak_memory_but_the_function_is_called():
    calls = []
    assert peak_memory(lambda: calls.append(1), "cpu") is None
    assert calls == [1]


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_gpus_report_the_peak_of_the_call_alone_in_mebibytes(monkeypatch, kind):
    happened = []
    api = getattr(torch, kind)
    monkeypatch.setattr(api, "reset_peak_memory_stats", lambda: happened.append("reset"))
    monkeypatch.setattr(api, "synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr(api, "max_memory_allocated", lambda: happened.append("read") or 3 * 2**20)
    assert peak_memory(lambda: happened.append("call"), kind) == 3.0
    assert happened == ["reset", "call", "wait", "read"]


def test_mps_reports_what_is_allocated_after_the_call(monkeypatch):
    happened = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: happened.append("read") or 2**19)
    assert peak_memory(lambda: happened.append("call"), "mps") == 0.5
    assert happened == ["call", "wait", "read"]
