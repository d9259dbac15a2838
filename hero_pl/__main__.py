"""``python -m hero_pl``: the same as the command ``hero_pl``."""

from hero_pl.cli.main import main

if __name__ == "__main__":
    main()
