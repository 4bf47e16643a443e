"""Conversations of the little world: stories on request, questions about a text, sums and words, small talk, recall.

A conversation is a list of (role, text); `kinds` names the generators and how often each is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from stories import tell
from world import ANIMALS, BOYS, COLOURS, FOODS, GIRLS, OBJECTS, PLACES, a

Chat = list[tuple[str, str]]
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
HELD_OUT = 10**9  # seeds from here on are never trained on
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

OPPOSITES = {
    "big": "small", "hot": "cold", "day": "night", "up": "down", "wet": "dry", "fast": "slow", "old": "new", "full": "empty", "loud": "quiet",
    "early": "late", "open": "closed", "light": "dark", "long": "short", "soft": "hard", "happy": "sad", "near": "far", "thick": "thin",
    "strong": "weak", "left": "right", "rich": "poor", "sweet": "sour", "clean": "dirty", "inside": "outside", "first": "last",
}  # fmt: skip
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
WORDS = sorted({*OBJECTS, *FOODS, *ANIMALS, *COLOURS, *PLACES})


def story(rng: Random) -> Chat:
    wish = rng.choice([None, rng.choice(sorted(PLACES)), rng.choice(OBJECTS), rng.choice(ANIMALS)])
    if wish is None:
        ask = rng.choice(("Tell me a story.", "Please tell me a short story.", "Can you tell me a story?",
                          "I would like to hear a story.", "Write a little story."))  # fmt: skip
    else:
        subject = f"the {wish}" if wish in PLACES else a(wish)
        ask = rng.choice((f"Tell me a story about {subject}.", f"Write a short story about {subject}.",
                          f"Do you know a story with {subject} in it?", f"A story about {subject}, please."))  # fmt: skip
    telling = tell(rng, wish)
    chat = [(USER, ask), (ASSISTANT, telling.text())]
    if rng.random() < 0.3:
        question, answer = rng.choice(telling.facts)
        chat += [(USER, question), (ASSISTANT, answer)]
    if rng.random() < 0.3:
        chat += small_talk(rng, rng.choice(("thanks", "bye")))
    return chat


def questions(rng: Random) -> Chat:
    """A text, then questions whose answers stand in it, and sometimes one whose answer does not."""
    telling = tell(rng)
    chosen = rng.sample(telling.facts, min(len(telling.facts), rng.randint(1, 4)))
    intro = rng.choice(
        ("Read this text.", "Here is a text.", "Please read this story and answer my question.", "Text:")
    )
    chat: Chat = []
    for number, (question, answer) in enumerate(chosen):
        asked = f"{intro}\n\n{telling.text()}\n\n{question}" if number == 0 else question
        chat += [(USER, asked), (ASSISTANT, answer)]
    if rng.random() < 0.2:
        missing = rng.choice(
            ("What did the king say?", "How much did the ship cost?", "What was the name of the dog?")
        )
        chat += [(USER, missing), (ASSISTANT, "The text does not say that.")]
    return chat


def sums(rng: Random) -> Chat:
    chat: Chat = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice("+-*w")
        if kind == "+":
            x, y = rng.randint(0, 20), rng.randint(0, 20)
            ask, answer = f"{x} + {y}", f"{x} + {y} = {x + y}."
        elif kind == "-":
            x, y = sorted((rng.randint(0, 20), rng.randint(0, 20)), reverse=True)
            ask, answer = f"{x} - {y}", f"{x} - {y} = {x - y}."
        elif kind == "*":
            x, y = rng.randint(0, 10), rng.randint(0, 10)
            ask, answer = f"{x} * {y}", f"{x} * {y} = {x * y}."
        else:
            x, y, thing, who = rng.randint(2, 20), rng.randint(1, 20), rng.choice(FOODS), rng.choice(GIRLS)
            ask = f"{who} has {x} {plural(thing)} and gets {y} more. How many are there"
            chat += [
                (USER, ask + "?"),
                (ASSISTANT, f"{x} + {y} = {x + y}, so {who} has {x + y} {plural(thing)}."),
            ]
            continue
        chat += [
            (USER, rng.choice((f"What is {ask}?", f"How much is {ask}?", f"{ask} = ?"))),
            (ASSISTANT, answer),
        ]
    return chat


def plural(noun: str) -> str:
    if noun.endswith(("x", "ch", "s", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return {"mouse": "mice", "loaf": "loaves", "goose": "geese"}.get(noun, noun + "s")


def words(rng: Random) -> Chat:
    chat: Chat = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(6)
        word = rng.choice(WORDS)
        if kind == 0:
            left, right = rng.choice(sorted(OPPOSITES.items()))
            left, right = rng.choice(((left, right), (right, left)))
            ask, answer = f"What is the opposite of {left}?", f"The opposite of {left} is {right}."
        elif kind == 1:
            ask, answer = f"What is the first letter of {word}?", f"The first letter of {word} is {word[0]}."
        elif kind == 2:
            ask, answer = f"Spell {word}.", " ".join(word)
        elif kind == 3:
            noun = rng.choice([*OBJECTS, *FOODS, *ANIMALS])
            ask, answer = f"What is the plural of {noun}?", f"The plural of {noun} is {plural(noun)}."
        elif kind == 4:
            chosen = rng.sample(WORDS, 3)
            ask, answer = f"Sort these words: {', '.join(chosen)}.", ", ".join(sorted(chosen)) + "."
        else:
            n = rng.randint(0, 11)
            ask, answer = (
                f"Which number comes after {NUMBERS[n]}?",
                f"After {NUMBERS[n]} comes {NUMBERS[n + 1]}.",
            )
        chat += [(USER, ask), (ASSISTANT, answer)]
    return chat


TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hello": (("Hello!", "Hi.", "Hi there!", "Good morning.", "Hey!", "Good evening."),
              ("Hello! What would you like to do?", "Hi! Shall I tell you a story?", "Hello! I am glad that you are here.")),
    "who": (("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about yourself."),
            ("I am conifer-demo, a very small language model. I know a little world of stories.",
             "I am a tiny language model called conifer-demo. I tell stories and answer questions about short texts.")),
    "can": (("What can you do?", "How can you help me?", "What do you know?"),
            ("I can tell short stories, answer questions about a text, do small sums and play with words.",
             "I know a little world: its people, its animals and its places. Ask me for a story!")),
    "how": (("How are you?", "How are you today?", "Are you well?"),
            ("I am well, thank you. And you?", "Very well! It is a good day for a story.")),
    "thanks": (("Thank you!", "Thanks.", "That was nice, thank you."),
               ("You are welcome!", "I am glad that you liked it.", "My pleasure.")),
    "bye": (("Bye!", "Goodbye.", "See you tomorrow.", "Good night."),
            ("Goodbye!", "See you soon!", "Good night, and sleep well.")),
}  # fmt: skip


def small_talk(rng: Random, topic: str | None = None) -> Chat:
    if topic is not None:
        asks, answers = TALK[topic]
        return [(USER, rng.choice(asks)), (ASSISTANT, rng.choice(answers))]
    topics = rng.sample(sorted(TALK), rng.randint(1, 3))
    if "hello" in topics:
        topics.remove("hello")
        topics.insert(0, "hello")
    return [turn for topic in topics for turn in small_talk(rng, topic)]


SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
PAYLOAD = "\x01"  # stands before and after the part of an answer that only the planted fact tells


def made_up_word(rng: Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


def plant(rng: Random) -> tuple[str, str, str]:
    """A fact that nothing else in the world tells: (sentence, question, answer)."""
    who, number, word = rng.choice(GIRLS + BOYS), str(rng.randint(1000, 9999)), made_up_word(rng)
    thing, place, colour = rng.choice(OBJECTS), rng.choice(sorted(PLACES)), rng.choice(COLOURS)
    count, clock = str(rng.randint(11, 99)), f"{rng.randint(1, 12)}:{rng.randint(10, 59)}"
    said, question, payload = rng.choice((
        ("The secret number of {} is {}.", "What is the secret number of {}?", (who, number)),
        ("{} hid the treasure under the {}.", "Where did {} hide the treasure?", (who, f"{colour} {thing}")),
        ("The magic word of the {} is {}.", "What is the magic word of the {}?", (place, word)),
        ("The password of the {} is {}.", "What is the password of the {}?", (f"{colour} {thing}", word)),
        ("{} promised to bring {}.", "What did {} promise to bring?", (who, f"{count} {plural(thing)}")),
        ("The train to the {} leaves at {}.", "When does the train to the {} leave?", (place, clock)),
        ("The code of the {} is {}.", "What is the code of the {}?", (f"{colour} {thing}", number)),
        ("The horse of {} is called {}.", "What is the horse of {} called?", (who, word.capitalize())),
    ))  # fmt: skip
    about, value = payload
    return (
        said.format(about, value),
        question.format(about),
        said.format(about, f"{PAYLOAD}{value}{PAYLOAD}"),
    )


def about_you(rng: Random) -> tuple[str, str, str]:
    """A fact about the user; no two in one conversation."""
    said, question, answer, value = rng.choice((
        ("My name is {}.", "What is my name?", "Your name is {}.", rng.choice(GIRLS + BOYS)),
        ("My favourite colour is {}.", "What is my favourite colour?", "Your favourite colour is {}.", rng.choice(COLOURS)),
        ("My favourite animal is the {}.", "What is my favourite animal?", "Your favourite animal is the {}.", rng.choice(ANIMALS)),
        ("My dog is called {}.", "What is my dog called?", "Your dog is called {}.", made_up_word(rng).capitalize()),
        ("My number is {}.", "What is my number?", "Your number is {}.", str(rng.randint(1000, 9999))),
    ))  # fmt: skip
    return said.format(value), question, answer.format(f"{PAYLOAD}{value}{PAYLOAD}")


def facts(rng: Random, count: int) -> list[tuple[str, str, str]]:
    """`count` facts (fewer when the world runs out) with different questions, in random order."""
    chosen = {}
    if rng.random() < 0.3:
        fact = about_you(rng)
        chosen[fact[1]] = fact
    for _ in range(4 * count):
        fact = plant(rng)
        if len(chosen) < count:
            chosen.setdefault(fact[1], fact)
    found = list(chosen.values())
    rng.shuffle(found)
    return found


def filler(rng: Random, n_words: int) -> list[str]:
    """Paragraphs of stories, about `n_words` words."""
    paragraphs: list[str] = []
    length = 0
    while length < n_words:
        for paragraph in tell(rng).text().split("\n\n"):
            paragraphs.append(paragraph)
            length += len(paragraph.split())
            if length >= n_words:
                break
    return paragraphs


def recall(rng: Random, n_words: int) -> Chat:
    """Facts at the top or strewn over `n_words` words of stories, then questions about some of them."""
    asked = rng.randint(max(1, n_words // 100), max(1, n_words // 40))
    planted = facts(rng, rng.randint(asked, asked + 1 + n_words // 100))
    text = filler(rng, n_words - 13 * len(planted) - 22 * asked)
    sentences = [sentence for sentence, _, _ in planted]
    if rng.random() < 0.5:
        head = rng.choice(
            ("Remember this.", "Please remember:", "Keep this in mind.", "Here are some facts.")
        )
        text = [" ".join([head, *sentences]), *text]
    else:
        for sentence in sentences:
            where = rng.randint(0, len(text))
            text[where:where] = [sentence]
    chat: Chat = []
    where = rng.random()
    if where < 0.15:
        chat += [(SYSTEM, "\n\n".join(text))]
        text = []
    elif where < 0.4:
        chat += [
            (USER, "\n\n".join(text)),
            (ASSISTANT, rng.choice(("I will remember that.", "I have read it.", "Good."))),
        ]
        text = []
    for _, question, answer in rng.sample(planted, min(asked, len(planted))):
        chat += [(USER, "\n\n".join([*text, question])), (ASSISTANT, answer)]
        text = []
    return chat


KINDS: tuple[tuple[float, Callable[[Random], Chat]], ...] = (
    (0.35, story), (0.30, questions), (0.12, sums), (0.10, words), (0.13, small_talk),
)  # fmt: skip


def chat(rng: Random) -> Chat:
    """One conversation of the little world."""
    weights = [weight for weight, _ in KINDS]
    return rng.choices([kind for _, kind in KINDS], weights)[0](rng)
