"""The little world that the demo texts are about: its words, and a seeded state that stories change.

Everything random comes from the `random.Random` that is passed in, so a text is a function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

GIRLS = [
    "Mira",
    "Lena",
    "Tilda",
    "Nora",
    "Ada",
    "Pia",
    "Rosa",
    "Hanna",
    "Ines",
    "Juna",
    "Zoe",
    "Clara",
    "Vera",
    "Emma",
    "Lotte",
    "Sofia",
    "Maja",
    "Greta",
    "Olga",
    "Dina",
]
BOYS = [
    "Tom",
    "Jonas",
    "Emil",
    "Oskar",
    "Milo",
    "Felix",
    "Anton",
    "Bruno",
    "Leo",
    "Hugo",
    "Nils",
    "Pavel",
    "Ivo",
    "Marco",
    "Theo",
    "Karl",
    "Sami",
    "Rudi",
    "Otto",
    "Finn",
]
ANIMALS = [
    "fox",
    "hedgehog",
    "badger",
    "otter",
    "squirrel",
    "mouse",
    "rabbit",
    "heron",
    "crow",
    "goat",
    "donkey",
    "turtle",
    "beaver",
    "owl",
    "hare",
    "duck",
]
ANIMAL_NAMES = [
    "Pip",
    "Bramble",
    "Moss",
    "Fern",
    "Tuck",
    "Dot",
    "Hazel",
    "Rusty",
    "Nib",
    "Willow",
    "Patch",
    "Clover",
    "Soot",
    "Juniper",
    "Puck",
    "Biscuit",
]
COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "white",
    "black",
    "brown",
    "grey",
    "silver",
    "golden",
    "pink",
    "purple",
]
JOBS = [
    "baker",
    "miller",
    "fisher",
    "gardener",
    "teacher",
    "carpenter",
    "shepherd",
    "postman",
    "potter",
    "weaver",
    "sailor",
    "clockmaker",
]

# name: (preposition, things one finds there)
PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "forest": ("in", ("pine cones", "mushrooms", "an old stump", "a narrow path")),
    "village": ("in", ("a well", "a crooked gate", "a row of houses", "a small square")),
    "harbour": ("in", ("boats", "nets", "a rusty anchor", "gulls on the wall")),
    "meadow": ("in", ("daisies", "tall grass", "a wooden fence", "butterflies")),
    "mill": ("at", ("sacks of flour", "a slow wheel", "a steep stair", "white dust")),
    "river": ("by", ("smooth stones", "reeds", "a low bridge", "quick little fish")),
    "hill": ("on", ("a lonely tree", "soft wind", "sheep", "a round stone")),
    "market": ("at", ("baskets of apples", "loud voices", "bright cloth", "fresh bread")),
    "garden": ("in", ("beans", "a hedge", "a watering can", "roses")),
    "barn": ("in", ("warm hay", "a ladder", "a sleepy cow", "dusty tools")),
    "lighthouse": ("at", ("a winding stair", "a great lamp", "salt on the windows", "a brass bell")),
    "school": ("at", ("chalk", "small desks", "a map on the wall", "a heavy door")),
    "orchard": ("in", ("pears", "bees", "a long ladder", "crates")),
    "cave": ("in", ("cold stones", "an echo", "a thin stream", "deep shadows")),
    "island": ("on", ("shells", "bent pines", "a broken oar", "warm sand")),
    "library": ("in", ("tall shelves", "a quiet clock", "old paper", "a green lamp")),
}

WEATHER: dict[str, tuple[str, ...]] = {
    "rain": (
        "It was raining",
        "Rain fell all day",
        "A soft rain had started",
        "The rain drummed on the roofs",
    ),
    "sun": (
        "The sun was shining",
        "It was a bright day",
        "The morning was warm and clear",
        "Not a cloud was in the sky",
    ),
    "snow": (
        "Snow lay on everything",
        "It had snowed in the night",
        "Thick snow was falling",
        "The first snow had come",
    ),
    "wind": (
        "A strong wind blew",
        "The wind pulled at every door",
        "It was a windy day",
        "The wind would not stop",
    ),
    "fog": (
        "Fog hid the roofs",
        "The fog was as thick as wool",
        "A grey fog had come up",
        "Nobody could see far in the fog",
    ),
    "storm": (
        "A storm was coming",
        "Dark clouds stood in the west",
        "Thunder rolled far away",
        "The air smelled of storm",
    ),
}

OBJECTS = [
    "lantern",
    "key",
    "basket",
    "kite",
    "boat",
    "drum",
    "scarf",
    "book",
    "bell",
    "rope",
    "compass",
    "hat",
    "mirror",
    "whistle",
    "umbrella",
    "cup",
    "letter",
    "map",
    "hammer",
    "flute",
    "blanket",
    "coin",
    "bucket",
    "spoon",
    "wheel",
    "box",
    "button",
    "clock",
    "ladder",
    "candle",
    "ribbon",
    "violin",
]
FOODS = [
    "apple",
    "pear",
    "loaf",
    "cake",
    "melon",
    "plum",
    "pie",
    "carrot",
    "bun",
    "cherry",
    "pancake",
    "berry",
    "nut",
    "egg",
    "biscuit",
    "turnip",
]
FEELINGS = {"glad": "smiled", "sad": "sighed", "proud": "stood very straight", "afraid": "trembled", "tired": "yawned",
            "curious": "looked closer", "angry": "stamped", "calm": "breathed slowly"}  # fmt: skip
TRAITS = [
    "brave",
    "shy",
    "clever",
    "patient",
    "careless",
    "kind",
    "stubborn",
    "cheerful",
    "quiet",
    "curious",
    "clumsy",
    "honest",
    "proud",
    "gentle",
]


@dataclass
class Character:
    """Somebody in a story; `he` and friends are the pronouns to use for them."""

    name: str
    kind: str  # "girl", "boy", a job or an animal
    trait: str
    he: str
    him: str
    his: str
    has: list[str] = field(default_factory=list)

    @property
    def He(self) -> str:
        return self.he.capitalize()


@dataclass
class World:
    """The state that a story starts from and changes."""

    rng: Random
    hero: Character
    friend: Character
    stranger: Character
    home: str
    away: str
    weather: str
    object: str
    colour: str
    food: str
    other: str

    def at(self, place: str) -> str:
        return f"{PLACES[place][0]} the {place}"

    def sight(self, place: str) -> str:
        return self.rng.choice(PLACES[place][1])

    @property
    def thing(self) -> str:
        return f"{self.colour} {self.object}"


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def character(rng: Random, taken: set[str]) -> Character:
    kind = rng.choice(("girl", "boy", "animal", "animal", "job"))
    if kind == "animal":
        name, kind = rng.choice(ANIMAL_NAMES), rng.choice(ANIMALS)
        he, him, his = rng.choice((("he", "him", "his"), ("she", "her", "her")))
    else:
        girl = kind == "girl" or (kind == "job" and rng.random() < 0.5)
        name = rng.choice(GIRLS if girl else BOYS)
        he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
        kind = rng.choice(JOBS) if kind == "job" else kind
    if name in taken:
        return character(rng, taken)
    taken.add(name)
    return Character(name, kind, rng.choice(TRAITS), he, him, his)


def make_world(rng: Random, wish: str | None = None) -> World:
    """A fresh state; `wish` (a place, an object or an animal) is worked in when it is a word of this world."""
    taken: set[str] = set()
    hero, friend, stranger = (character(rng, taken) for _ in range(3))
    home, away = rng.sample(sorted(PLACES), 2)
    thing, other = rng.sample(OBJECTS, 2)
    if wish in PLACES:
        away = wish
        home = home if home != wish else rng.choice([p for p in sorted(PLACES) if p != wish])
    elif wish in OBJECTS:
        thing = wish
        other = other if other != wish else rng.choice([o for o in OBJECTS if o != wish])
    elif wish in ANIMALS:
        he, him, his = rng.choice((("he", "him", "his"), ("she", "her", "her")))
        hero = Character(rng.choice(ANIMAL_NAMES), wish, hero.trait, he, him, his)
        if hero.name in (friend.name, stranger.name):
            return make_world(rng, wish)
    return World(rng, hero, friend, stranger, home, away, rng.choice(sorted(WEATHER)), thing, rng.choice(COLOURS),
                 rng.choice(FOODS), other)  # fmt: skip
