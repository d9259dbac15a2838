"""Words of the generated catalog: departments, their products, and the variants of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Department:
    """One department of the shop."""

    name: str
    path: str
    """Category levels above the product."""
    things: tuple[str, ...]
    """Noun phrases; each is a separate query."""
    materials: tuple[str, ...]
    attributes: tuple[str, ...]
    groups: tuple[str, ...]
    """Option groups that a product may have, in the order in which they are added."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


DEPARTMENTS = (
    Department(
        "garden",
        "Patio › Garden",
        _words("watering can, plant pot, garden hose, bird feeder, hedge trimmer, seed tray"),
        _words("copper, terracotta, zinc, recycled rubber, cedar"),
        _words("frost proof, rust free, leak proof, quick drain, weather sealed, easy grip, self watering, uv stable"),
        ("color", "capacity", "pack"),
    ),
    Department(
        "kitchen",
        "Home › Kitchen",
        _words("frying pan, mixing bowl, chef knife, cutting board, tea kettle, storage jar, baking tray"),
        _words("cast iron, ceramic, maple, stainless, enamel, borosilicate"),
        _words(
            "oven safe, dishwasher safe, stay cool handle, nonstick coating, induction ready, drip free, airtight lid"
        ),
        ("color", "diameter", "style"),
    ),
    Department(
        "clothing",
        "Fashion › Clothing",
        _words("rain jacket, wool sweater, linen shirt, hiking trousers, pleated skirt, winter scarf, cotton socks"),
        _words("merino, linen, organic cotton, ripstop, cashmere blend"),
        _words(
            "machine washable, wrinkle free, quick drying, moisture wicking, reinforced seams, hidden "
            "pockets, stretch waist"
        ),
        ("color", "size", "fit type"),
    ),
    Department(
        "footwear",
        "Fashion › Footwear",
        _words("trail sneaker, leather loafer, snow boot, canvas sandal, clog slipper"),
        _words("suede, nubuck, canvas, mesh, full grain"),
        _words("arch support, slip resistant, shock absorbing, wide toe box, removable insole, lug sole"),
        ("color", "size", "width"),
    ),
    Department(
        "audio",
        "Electronics › Audio",
        _words("shelf speaker, studio headphone, desk microphone, pocket radio, record player, sound bar"),
        _words("walnut, brushed metal, fabric, carbon, bamboo"),
        _words(
            "noise reducing, low latency, long battery life, voice control, splash proof, balanced bass, fast pairing"
        ),
        ("color", "edition", "cable length"),
    ),
    Department(
        "office",
        "Office › Supplies",
        _words("desk lamp, paper shredder, fountain pen, filing box, drawing tablet, label printer"),
        _words("aluminum, beech, steel mesh, cork, acrylic"),
        _words("glare free, space saving, jam free, quiet motor, refill included, energy efficient, tilting head"),
        ("color", "finish", "pack"),
    ),
    Department(
        "bath",
        "Beauty › Bath",
        _words("hand soap, bath towel, body scrub, shower curtain, hair brush, shaving cream"),
        _words("oat, bamboo, sea salt, shea, charcoal infused"),
        _words(
            "fragrance free, fast absorbing, paraben free, extra gentle, plastic free, cruelty free, mildew resistant"
        ),
        ("scent", "size", "color"),
    ),
    Department(
        "pantry",
        "Grocery › Pantry",
        _words("roasted coffee, trail mix, olive oil, hot sauce, oat cookie, dried mango, green tea"),
        _words("stone ground, single origin, slow dried, cold pressed, wood smoked"),
        _words(
            "gluten free, low sodium, no added sugar, certified organic, high fiber, nut free, fair trade, small batch"
        ),
        ("flavor name", "pack", "roast"),
    ),
    Department(
        "outdoors",
        "Sports › Outdoors",
        _words("camping tent, sleeping bag, trekking pole, dry sack, head torch, folding chair, water bottle"),
        _words("titanium, nylon, down filled, anodized, polyester"),
        _words(
            "wind resistant, ultra compact, waterproof seams, quick setup, glow in the dark, insulated "
            "wall, repair kit included"
        ),
        ("color", "capacity", "season"),
    ),
    Department(
        "toys",
        "Toys › Play",
        _words("wooden puzzle, building block, board game, plush bear, kite, marble run, toy train"),
        _words("birch, felt, cardboard, foam, linden"),
        _words(
            "ages three and up, non toxic, two player, washable surface, batteries included, travel "
            "friendly, glow paint"
        ),
        ("color", "edition", "pieces"),
    ),
)

OPTION_VALUES = {
    "color": _words(
        "forest green, sky blue, brick red, charcoal, sand, plum, ivory, mustard, teal, copper brown, navy, blush pink"
    ),
    "size": _words("x-small, small, medium, large, x-large, xx-large, travel size, family size"),
    "capacity": _words("0.5 liter, 1 liter, 2 liter, 5 liter, 12 liter, 20 liter, 45 liter"),
    "pack": _words("single, pack of 2, pack of 4, pack of 6, pack of 12, pack of 24"),
    "diameter": _words("14 cm, 18 cm, 20 cm, 24 cm, 28 cm, 32 cm"),
    "style": _words("with lid, without lid, left handed, professional, starter set"),
    "fit type": _words("regular, slim, relaxed, petite, tall"),
    "width": _words("narrow, standard width, wide, extra wide"),
    "edition": _words("classic edition, studio edition, travel edition, anniversary edition, junior edition"),
    "cable length": _words("0.5 m, 1.5 m, 3 m, 5 m, 10 m"),
    "finish": _words("matte, glossy, brushed, hammered, raw"),
    "scent": _words("lavender, cedar, citrus, rose water, unscented, eucalyptus"),
    "flavor name": _words("vanilla, smoked paprika, sea salt, dark cherry, ginger, mild, extra spicy"),
    "roast": _words("light roast, medium roast, dark roast"),
    "season": _words("summer weight, three season, winter weight"),
    "pieces": _words("24 pieces, 60 pieces, 120 pieces, 500 pieces, 1000 pieces"),
}

BRANDS = _words(
    "Amberlo, Brackwater, Cindervale, Dovecote, Eastmere, Fernhollow, Gladwyn, Hartlow, "
    "Inkwell, Jarrow, Kelmoor, Larkspur,"
    "Millrace, Norvane, Ostrander, Pinehurst, Quarrington, Rookwood, Saltmarsh, Thistledown, "
    "Underhill, Vexley, Windrush, Yarrow"
)
QUALIFIERS = _words("Everyday, Signature, Heritage, Compact, Deluxe, Essential, Field, Original, Studio, Prime")
USES = _words(
    "Small Homes, Weekend Trips, Gifts, Beginners, Busy Mornings, Long Winters, Shared Flats, Summer Evenings"
)
BULLETS = (
    "{Attribute}: you notice the difference on the first day.",
    "{Attribute}, tested in our own workshop before it leaves the house.",
    "Made with {material} from suppliers we have known for years.",
    "Fits {use} and is easy to put away afterwards.",
    "Measured by hand, so please allow 1-2 cm either way.",
    "Questions? We answer every message within two working days.",
    "Comes in a plain box without plastic.",
)
DESCRIPTIONS = (
    "A {material} {thing} that does one job well.",
    "We made this {thing} because the one at home kept breaking.",
    "The {brand} {thing} is {attribute} and {other}.",
    "Care: wipe with a damp cloth and let it dry.",
    "If it does not suit you, send it back within 30 days.",
    "Designed for {use}.",
)
REQUESTS = (
    "i need a {thing} that is {attributes}{options}",
    "looking for {attributes} {thing}{options}",
    "please get me a {thing}, {attributes}{options}.",
    "can you find a {thing}? it should be {attributes}{options}",
    "my old {thing} broke, i want a new one that is {attributes}{options}.",
    "show me a {material} {thing} which is {attributes}{options}",
)
