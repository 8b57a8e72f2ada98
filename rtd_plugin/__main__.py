"""`python -m rtd_plugin`, for launchers such as torchrun."""

from rtd_plugin.cli.main import main

if __name__ == "__main__":
    main()
