"""`python -m icclip`, and so `torchrun -m icclip` and `accelerate launch -m icclip`."""

from icclip.cli import main

if __name__ == "__main__":
    main()
