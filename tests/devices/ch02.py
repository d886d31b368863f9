"""Chapter 2 on an accelerator: see tests/devices."""

ALLOWED_ON_CPU = {
    "2.1": {"addmm", "convolution", "mm"},  # measured on the CPU beside the accelerator: that is the subject
}

MODELS = {}
