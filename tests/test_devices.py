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


def has_everything(name, dtype):
    return True


def has_no_float64_but_on_cpu(name, dtype):
    return name == "cpu" or dtype != torch.float64


def test_without_an_accelerator_the_device_is_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(devices, "_accelerators", lambda: [])
    assert device() == torch.device("cpu")
    assert capsys.readouterr().out == "Computing on: cpu\n"


def test_the_first_accelerator_wins_over_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "_accelerators", lambda: ["cuda", "xpu"])
    monkeypatch.setattr(devices, "_has_dtype", has_everything)
    assert device() == torch.device("cuda")


def test_accelerators_are_listed_best_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert devices._accelerators() == ["cuda", "mps", "xpu"]


def test_a_device_without_the_number_format_is_passed_over(monkeypatch):
    monkeypatch.setattr(devices, "_accelerators", lambda: ["mps"])
    monkeypatch.setattr(devices, "_has_dtype", has_no_float64_but_on_cpu)
    assert device() == torch.device("mps")
    assert device(needs=torch.float64) == torch.device("cpu")


def test_number_formats_are_tried_out_and_both_kinds_of_refusal_count(monkeypatch):
    assert devices._has_dtype("cpu", torch.float64)
    for refusal in (TypeError("Cannot convert to float64"), RuntimeError("not supported")):

        def refuse(*args, refusal=refusal, **kwargs):
            raise refusal

        monkeypatch.setattr(torch, "zeros", refuse)
        assert not devices._has_dtype("mps", torch.float64)


def test_the_variable_overrides_the_choice(monkeypatch, capsys):
    monkeypatch.setattr(devices, "_accelerators", lambda: ["cuda"])
    monkeypatch.setattr(devices, "_has_dtype", has_everything)
    monkeypatch.setenv(devices.VARIABLE, "cpu")
    assert device() == torch.device("cpu")
    assert "cpu" in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["gpu", "", "cuda:99", "CPU", "vulkan", "hpu"])
def test_a_device_that_is_not_there_is_refused_and_those_that_are_get_named(monkeypatch, asked):
    monkeypatch.setattr(devices, "_accelerators", lambda: [])
    monkeypatch.setenv(devices.VARIABLE, asked)
    with pytest.raises(ValueError, match=rf"LBDL_DEVICE='{asked}': expected a device that is there \(cpu\)"):
        device()


def test_an_asked_device_without_the_number_format_is_refused_and_not_replaced(monkeypatch):
    monkeypatch.setattr(devices, "_has_dtype", lambda name, dtype: False)
    monkeypatch.setenv(devices.VARIABLE, "cpu")
    with pytest.raises(ValueError, match=r"LBDL_DEVICE='cpu': expected a device with torch\.float64"):
        device(needs=torch.float64)


def test_under_torchrun_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(devices, "_accelerators", lambda: ["cuda"])
    monkeypatch.setattr(devices, "_has_dtype", has_everything)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device() == torch.device("cuda:1")


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_seed_fixes_python_numpy_and_torch():
    seed(3)
    first = draws()
    seed(3)
    assert draws() == first
    seed(4)
    assert not set(draws()) & set(first)


def test_the_generator_of_a_seed_is_on_the_cpu_and_gives_the_same_numbers_again():
    generator = seed(3)
    assert generator.device == torch.device("cpu")
    assert torch.equal(torch.rand(5, generator=generator), torch.rand(5, generator=seed(3)))
    assert not torch.equal(torch.rand(5, generator=seed(3)), torch.rand(5, generator=seed(4)))


def test_a_large_seed_is_taken():
    seed(2**63)  # NumPy takes 32 bits only


@pytest.mark.parametrize("wrong", [-1, 1.0, "1", None, True, 2**64])
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


def test_seconds_calls_once_to_warm_up_and_once_for_each_repeat():
    calls = []
    assert seconds(lambda: calls.append(1), repeats=4) >= 0
    assert len(calls) == 5


def test_seconds_waits_for_the_device_before_each_reading_of_the_clock(monkeypatch):
    happened = []
    monkeypatch.setattr(devices, "synchronize", lambda on: happened.append(f"wait for {on}"))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: happened.append("clock") or 0.0)
    seconds(lambda: happened.append("call"), on="cuda", repeats=1)
    assert happened == ["call", "wait for cuda", "clock", "call", "wait for cuda", "clock"]


def test_seconds_is_the_median(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 120])  # calls of 1, 2 and 100 seconds
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    assert seconds(lambda: None, repeats=3) == 2


@pytest.mark.parametrize("repeats", [0, -1])
def test_seconds_needs_a_repeat(repeats):
    calls = []
    with pytest.raises(ValueError, match=f"expected at least 1 repeat, got {repeats}"):
        seconds(lambda: calls.append(1), repeats=repeats)
    assert not calls


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
