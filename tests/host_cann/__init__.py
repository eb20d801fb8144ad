"""A host-side CANN: the real Ascend Python stack on any x86-64 Linux machine, without an NPU. See README.md here."""
