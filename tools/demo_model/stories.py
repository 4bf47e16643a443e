"""Short stories: a plot is a chain of events that change the world, and each event is told in one of several ways.

A story also yields the questions that its events answer, so that chats about a text are true to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from world import FEELINGS, WEATHER, World, a, make_world


@dataclass
class Telling:
    """A story in the making: its sentences, and the facts that it has stated as (question, answer)."""

    world: World
    lines: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def say(self, *ways: str) -> None:
        """Tell one event in one of several ways."""
        self.lines.append(self.world.rng.choice(ways))

    def maybe(self, chance: float, *ways: str) -> None:
        if self.world.rng.random() < chance:
            self.say(*ways)

    def fact(self, question: str, answer: str) -> None:
        self.facts.append((question, answer))

    def text(self) -> str:
        """Paragraphs of two to five sentences."""
        rng, lines, paragraphs = self.world.rng, list(self.lines), []
        while lines:
            size = rng.randint(2, 5)
            paragraphs.append(" ".join(lines[:size]))
            lines = lines[size:]
        return "\n\n".join(paragraphs)


def opening(t: Telling) -> None:
    w = t.world
    h = w.hero
    who = {"girl": "a girl", "boy": "a boy"}.get(h.kind, a(h.kind))
    t.say(
        f"Once there was {who} called {h.name} who lived {w.at(w.home)}.",
        f"{h.name} was {a(h.trait)} {h.kind} who lived {w.at(w.home)}.",
        f"{w.at(w.home).capitalize()} lived {who} named {h.name}.",
        f"There was {who} {w.at(w.home)}, and {h.his} name was {h.name}.",
        f"Everybody {w.at(w.home)} knew {h.name}, the {h.trait} {h.kind}.",
    )
    t.fact(f"Where did {h.name} live?", f"{h.name} lived {w.at(w.home)}.")
    t.fact(f"What kind of creature or person was {h.name}?", f"{h.name} was {who}.")
    t.maybe(
        0.7,
        f"{w.rng.choice(WEATHER[w.weather])}.",
        f"{w.rng.choice(WEATHER[w.weather])}, and {h.name} looked at {w.sight(w.home)}.",
        f"{w.rng.choice(WEATHER[w.weather])} that morning.",
    )


def walk(t: Telling) -> None:
    w, h = t.world, t.world.hero
    t.say(
        f"So {h.name} walked all the way to the {w.away}.",
        f"{h.name} set off for the {w.away}, past {w.sight(w.home)}.",
        f"After breakfast {h.he} went to the {w.away}.",
        f"It was a long way to the {w.away}, but {h.name} did not mind.",
        f"{h.name} took {a(w.food)} for the road and went to the {w.away}.",
    )
    t.fact(f"Where did {h.name} go?", f"{h.name} went to the {w.away}.")
    t.maybe(
        0.6,
        f"There {h.he} saw {w.sight(w.away)}.",
        f"{w.at(w.away).capitalize()} {h.he} found {w.sight(w.away)}, and nobody else.",
        f"{h.He} liked the smell of the place.",
        f"On the way {h.he} counted the birds and hummed a song.",
    )


def feel(t: Telling, *names: str) -> None:
    w, h = t.world, t.world.hero
    feeling = w.rng.choice(names)
    t.say(
        f"{h.name} was {feeling}.",
        f"{h.name} {FEELINGS[feeling]}.",
        f"{h.He} {FEELINGS[feeling]}, because {h.he} was {feeling}.",
        f'"I am {feeling}," {h.he} said.',
    )


def meet(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    who = {"girl": "a girl", "boy": "a boy"}.get(f.kind, a(f.kind))
    t.say(
        f"There {h.he} met {f.name}, {who}.",
        f"{who.capitalize()} was sitting by the way. It was {f.name}.",
        f'"Good day," said a voice. It was {f.name}, the {f.kind}.',
        f"Just then {f.name} the {f.kind} came along.",
    )
    t.fact(f"Whom did {h.name} meet?", f"{h.name} met {f.name}, {who}.")
    t.maybe(
        0.5,
        f'"Where are you going?" asked {f.name}. "To the {w.away}," said {h.name}.',
        f'"You look {w.rng.choice(sorted(FEELINGS))}," said {f.name}.',
        f"They shared {a(w.food)} and talked for a while.",
    )


def lost_and_found(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    t.say(
        f"One day {h.name} lost {h.his} {w.thing}.",
        f"{h.name} had a {w.thing}, and one morning it was gone.",
        f'"Where is my {w.thing}?" cried {h.name}.',
    )
    t.fact(f"What did {h.name} lose?", f"{h.name} lost a {w.thing}.")
    feel(t, "sad", "afraid", "angry")
    t.maybe(
        0.6,
        f"{h.He} looked under the bed and behind the door, but it was not there.",
        f"{h.He} looked beside {w.sight(w.home)} and found only {a(w.other)}.",
    )
    walk(t)
    meet(t)
    t.say(
        f'"I have lost my {w.thing}," said {h.name}. "Then let us look together," said {f.name}.',
        f"{h.name} told {f.name} about the {w.thing}, and {f.name} promised to help.",
    )
    place = w.sight(w.away)
    t.say(
        f"They searched until evening, and there, beside {place}, lay the {w.thing}.",
        f"{f.name} looked behind {place} and pulled out the {w.thing}.",
        f"At last {h.name} saw something {w.colour} near {place}. It was the {w.object}!",
    )
    t.fact(f"Where was the {w.object} found?", f"The {w.object} was found near {place}, {w.at(w.away)}.")
    t.fact(f"Who helped {h.name}?", f"{f.name} helped {h.name}.")
    thanks(t)


def broken_and_mended(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    t.say(
        f"{h.name} loved {h.his} {w.thing} more than anything.",
        f"{h.his.capitalize()} {w.thing} was the best thing {h.name} had.",
    )
    t.say(
        "But one day it fell and broke in two.",
        f"But {h.name} tripped over {w.sight(w.home)}, and it broke.",
        "Then the wind took it and threw it against a wall.",
    )
    t.fact("What broke?", f"The {w.thing} of {h.name} broke.")
    feel(t, "sad", "angry")
    t.say(
        f'"{f.name} can mend anything," {h.he} thought.',
        f"Somebody told {h.him} about {f.name}, who could mend anything.",
    )
    walk(t)
    meet(t)
    days = w.rng.choice(("one day", "two days", "three days", "a whole night"))
    t.say(
        f'"It will take {days}," said {f.name}, and it took {days}.',
        f"{f.name} worked on it for {days}.",
        f"It took {f.name} {days} to mend the {w.object}.",
    )
    t.fact(f"How long did it take to mend the {w.object}?", f"It took {days}.")
    t.fact(f"Who mended the {w.object}?", f"{f.name} mended the {w.object}.")
    t.say(
        f'"What do I owe you?" asked {h.name}. "Only {a(w.food)}," said {f.name}.',
        f"{h.name} paid with {a(w.food)}, and both laughed.",
    )
    t.fact(f"What did {h.name} give {f.name} for the work?", f"{h.name} gave {f.name} {a(w.food)}.")
    ending(t)


def storm_rescue(t: Telling) -> None:
    w, h, f, s = t.world, t.world.hero, t.world.friend, t.world.stranger
    w.weather = "storm"
    t.say(
        f"In the evening a storm came up, and {f.name} was still {w.at(w.away)}.",
        f"Dark clouds came. {f.name} the {f.kind} had gone to the {w.away} and had not come back.",
    )
    t.fact("Who was missing in the storm?", f"{f.name} was missing.")
    t.say(
        f'"We must wait," said {s.name}. "No, we must go now," said {h.name}.',
        f"{s.name} said that it was too dark, but {h.name} was already at the door.",
        f'"Who will come with me?" asked {h.name}. Only {s.name} stood up.',
    )
    t.say(
        f"{h.name} took a {w.thing} and ran out into the rain.",
        f"{h.He} lifted the {w.thing} high so that {f.name} could see it.",
    )
    t.fact(f"What did {h.name} take along?", f"{h.name} took a {w.thing}.")
    t.say(
        f"Again and again {h.he} called. At last a small voice answered from beside {w.sight(w.away)}.",
        f"The wind was loud, but {h.name} heard a cry behind {w.sight(w.away)}.",
    )
    t.say(
        f"{f.name} was wet and cold, but not hurt.",
        f"{f.name} had hurt a foot and could not walk, so {h.name} carried {f.him}.",
    )
    t.say(
        f"Back {w.at(w.home)} there was hot soup for everybody.",
        f'"I knew you would come," said {f.name}.',
        "They sat by the fire until the storm was over.",
    )
    ending(t)


def trade_chain(t: Telling) -> None:
    w, h, f, s = t.world, t.world.hero, t.world.friend, t.world.stranger
    t.say(
        f"{h.name} wanted a {w.thing}, but {h.he} had no coins.",
        f"More than anything {h.name} wished for a {w.thing}.",
    )
    t.fact(f"What did {h.name} want?", f"{h.name} wanted a {w.thing}.")
    t.say(
        f"All {h.he} had was {a(w.food)}.",
        f"In {h.his} pocket was only {a(w.food)}.",
    )
    walk(t)
    t.say(
        f"{f.name} the {f.kind} was hungry and gave {h.him} {a(w.other)} for the {w.food}.",
        f'"I will give you my {w.other} for that {w.food}," said {f.name}. {h.name} agreed.',
    )
    t.fact(f"What did {f.name} give for the {w.food}?", f"{f.name} gave {a(w.other)}.")
    t.say(
        f"Then {s.name} came by, who needed {a(w.other)} and had a {w.thing}.",
        f'A little later {s.name} saw the {w.other}. "I have looked for one like that for years," {s.he} said.',
    )
    t.say(
        f"They traded, and so {h.name} came home with the {w.thing}.",
        f"{s.name} gave {h.him} the {w.thing} for it, and {h.name} could hardly believe it.",
    )
    t.fact(f"Who gave {h.name} the {w.object}?", f"{s.name} gave {h.name} the {w.object}.")
    feel(t, "glad", "proud")
    ending(t)


def fear_overcome(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    fear = w.rng.choice(("the dark", "deep water", "high places", "loud noises", "big dogs", "being alone"))
    t.say(
        f"{h.name} was afraid of {fear}.", f"There was one thing that {h.name} feared, and that was {fear}."
    )
    t.fact(f"What was {h.name} afraid of?", f"{h.name} was afraid of {fear}.")
    t.maybe(0.6, f"{h.He} told nobody about it.", "The others laughed about it, and that made it worse.")
    t.say(
        f"Then {h.his} friend {f.name} lost a {w.thing} {w.at(w.away)}.",
        f"One day {f.name} forgot a {w.thing} {w.at(w.away)} and could not go back.",
    )
    t.say(
        f'"I will get it," said {h.name}, and {h.his} knees shook.',
        f"{h.name} took a deep breath and went.",
        f"{h.He} thought of {fear}, and then {h.he} thought of {f.name}, and went.",
    )
    walk(t)
    t.say(
        f"{h.He} counted to ten, then to twenty, and it was not so bad.",
        f"{h.He} sang a song until {h.his} heart was quiet.",
        f"Step by step {h.he} went on, and nothing happened at all.",
    )
    t.say(
        f"When {h.he} came back, {h.he} had the {w.object} in {h.his} hand.",
        f"Soon {h.he} held the {w.thing}.",
    )
    t.say(
        f'"Were you not afraid?" asked {f.name}. "Yes," said {h.name}, "but I went anyway."',
        f"After that {fear} seemed much smaller.",
    )
    ending(t)


def secret_gift(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    t.say(
        f"It was almost the birthday of {f.name}, and {h.name} had no gift.",
        f"Tomorrow {f.name} would have a birthday. {h.name} wanted to make something.",
    )
    t.fact("Whose birthday was it?", f"It was the birthday of {f.name}.")
    walk(t)
    t.say(
        f"{h.He} gathered {w.sight(w.away)} and an old board, and began to work.",
        f"{h.He} found wood and paint and worked the whole afternoon.",
    )
    t.say(
        f"{f.name} came to the door, so {h.name} hid everything under a blanket.",
        f'"What are you doing?" called {f.name}. "Nothing!" called {h.name}.',
    )
    t.say(
        f"In the morning {h.name} gave {f.him} a {w.thing}.",
        f"On the table stood a {w.thing}, still smelling of paint.",
    )
    t.fact("What was the gift?", f"The gift was a {w.thing}.")
    t.say(
        f'"It is the best {w.object} in the world," said {f.name}.',
        f"{f.name} said nothing at first, and then hugged {h.him} hard.",
    )
    ending(t)


def clever_plan(t: Telling) -> None:
    w, h, f, s = t.world, t.world.hero, t.world.friend, t.world.stranger
    t.say(
        f"Every night somebody took {a(w.food)} from the house of {h.name}.",
        f"Somebody was stealing from {h.name}. Each morning one {w.food} was missing.",
    )
    t.fact("What was missing each morning?", f"Each morning {a(w.food)} was missing.")
    t.say(
        f'"It was {f.name}," people said, but {h.name} did not believe it.',
        f"Some thought of {f.name}. {h.name} wanted to be sure.",
    )
    t.say(
        f"{h.He} tied a {w.object} to the door so that it would make a noise.",
        f"{h.He} put flour on the floor and a {w.thing} by the door, and waited.",
    )
    t.fact(f"What did {h.name} put by the door?", f"{h.name} put a {w.object} by the door.")
    t.say(
        f"At midnight there was a noise. It was {s.name} the {s.kind}!",
        f"In the middle of the night {h.he} heard steps, and there stood {s.name}.",
    )
    t.fact("Who took the food?", f"{s.name} took the food.")
    t.say(
        f'"I was so hungry," said {s.name}. "Then ask next time," said {h.name}.',
        f"{s.name} began to cry, because there was nothing to eat at home.",
    )
    t.say(
        f"From then on {s.name} came every evening, through the front door, and they ate together.",
        f"{h.name} put another plate on the table.",
    )
    ending(t)


def the_race(t: Telling) -> None:
    w, h, f, s = t.world, t.world.hero, t.world.friend, t.world.stranger
    t.say(
        f"Every year there was a race from the {w.home} to the {w.away}.",
        f"{s.name} called everybody together for a race to the {w.away}.",
    )
    t.fact("Where did the race end?", f"The race ended {w.at(w.away)}.")
    t.say(f"The prize was a {w.thing}.", f"Who came first would get a {w.thing}.")
    t.fact("What was the prize?", f"The prize was a {w.thing}.")
    t.say(
        f"{f.name} was faster than {h.name}, and everybody knew it.",
        f"{h.name} had never won anything, but {h.he} was {h.trait}.",
    )
    t.say(
        f"Halfway there {f.name} fell over {w.sight(w.away)}.",
        f"Near the end {f.name} slipped in the mud and could not get up.",
    )
    winner = w.rng.choice((h, s))
    if winner is h:
        t.say(
            f"{h.name} ran on as fast as {h.he} could and came in first.",
            f"{h.name} jumped over a ditch and won.",
        )
        t.say(
            f"Then {h.he} went back, gave {f.name} a hand, and shared the prize.",
            f"{h.He} let {f.name} have the {w.object} every other day.",
        )
    else:
        t.say(
            f"{h.name} stopped and helped {f.him} up, so {s.name} won.",
            f"{h.name} turned back, and {s.name} ran past.",
        )
        t.say(
            f'"You could have won," said {f.name}. "I know," said {h.name}.',
            f"But {s.name} had seen it, and gave the {w.object} to {h.name}.",
        )
    t.fact("Who won the race?", f"{winner.name} won the race.")
    ending(t)


def thanks(t: Telling) -> None:
    h, f = t.world.hero, t.world.friend
    t.maybe(0.8, f'"Thank you, {f.name}," said {h.name}.', f"{h.name} thanked {f.name} three times.",
            f'"What would I do without you?" said {h.name}.')  # fmt: skip
    ending(t)


def ending(t: Telling) -> None:
    w, h, f = t.world, t.world.hero, t.world.friend
    t.say(
        f"That night {h.name} slept well.",
        f"And from that day on {h.name} and {f.name} were friends.",
        f"{h.name} went home in the dark, and the stars were out.",
        "Sometimes they still talk about that day.",
        f"The next morning the sun came up over the {w.home}, and everything was good.",
        f"{h.He} never forgot it.",
        f'"Tomorrow we will do it again," said {f.name}, and they did.',
        f"When {h.name} was old, {h.he} told this story to anyone who would listen.",
    )


PLOTS: tuple[Callable[[Telling], None], ...] = (
    lost_and_found, broken_and_mended, storm_rescue, trade_chain, fear_overcome, secret_gift, clever_plan, the_race,
)  # fmt: skip


def tell(rng: Random, wish: str | None = None) -> Telling:
    """A whole story; `wish` is a word that it should be about."""
    t = Telling(make_world(rng, wish))
    opening(t)
    rng.choice(PLOTS)(t)
    return t
