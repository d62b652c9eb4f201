"""Stock Debian kernels in an emulated machine over this machine's own file system.

    python -m tests.vm prepare                          # tools, then every kernel
    python -m tests.vm run --kernel bookworm -- uname -r
    python -m tests.vm features                         # what each kernel offers, as a table

`kernels` gets the kernels through apt, `tools` what boots them, `machine` boots one and
runs a command in it. `features` and `guest_check` are what runs inside.
"""
