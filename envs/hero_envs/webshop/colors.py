"""The ordered color words of WebShop's option matching (data of the benchmark)."""

from functools import lru_cache

_WORDS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown "
    "burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac "
    "copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia gold granite "
    "grape graphite grass gray green grey heather indigo ivory ivy khaki lavender lemon leopard light "
    "lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard natural navy "
    "nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell "
    "silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut "
    "wheat white wine yellow"
)
COLOR_SET: tuple[str, ...] = tuple(_WORDS.split())
"""A color matches as a substring of a value; the first match in this order is used."""


@lru_cache(maxsize=1 << 16)
def normalize_color(value: str | tuple[str, str]) -> str | tuple[str, str]:
    """The first color word inside ``value``, or ``value`` itself if there is none.

    In a pair (name, value) a *member* has to equal a color word; in a string a substring is enough.

    Example:
        >>> normalize_color("navy blue"), normalize_color(("color", "red")), normalize_color(("color", "navy blue"))
        ('blue', 'red', ('color', 'navy blue'))
    """
    return next((color for color in COLOR_SET if color in value), value)
