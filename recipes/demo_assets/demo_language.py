"""The made-up language of the embedded demo: facts, prompts, answers and their corruptions.

Everything here was written for this project.
"""

from __future__ import annotations

import itertools
import random
import string
from dataclasses import dataclass
from typing import NamedTuple


class Fact(NamedTuple):
    """The core of the right answer, and of a typical mistake."""

    core: str
    mistake: str


class Pair(NamedTuple):
    """One prompt with its right answer, a typical mistake, and the family's other answers."""

    family: str
    prompt: str
    answer: str
    mistake: str
    other_answers: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A task: facts `key -> core` put into phrasings and one answer sentence."""

    name: str
    facts: dict[str, Fact]
    phrasings: tuple[str, ...]
    answer: str

    def pairs(self) -> list[Pair]:
        """Make all prompts of the family, one for each fact, phrasing, opening and closing."""
        cores = sorted({fact.core for fact in self.facts.values()})
        wordings = itertools.product(self.facts.items(), self.phrasings, OPENINGS, CLOSINGS)
        pairs = []
        for (key, fact), phrasing, opening, closing in wordings:
            prompt = opening + phrasing.format(key) + closing
            answer, mistake = self.answer.format(fact.core), self.answer.format(fact.mistake)
            others = tuple(self.answer.format(core) for core in cores if core != fact.core)
            pairs.append(Pair(self.name, prompt, answer, mistake, others))
        return pairs


OPENINGS = ("", "Please answer: ", "Quick question: ", "Tell me: ")
CLOSINGS = ("", " Be brief.", " Thank you.")
KINDS = ("wrong", "swapped", "truncated", "garbled", "off_format", "empty")
FEEDBACK = {
    "clean": " Right.",
    "wrong": " Wrong.",
    "swapped": " Unrelated.",
    "truncated": " Unfinished.",
    "garbled": " Unreadable.",
    "off_format": " Untidy.",
    "empty": " Empty.",
}
EMPTY_ANSWERS = ("...", "n/a", "-", "None.", "???")
WRAPPERS = ('{{"answer": "{}"}}', "<p>{}</p>", "## {} ##", "print('{}')")
NOISE = string.ascii_letters + string.digits + "#%&*+=@^_~|"


def _table(text: str) -> dict[str, Fact]:
    """Read `key: core mistake; key: core mistake; ...`."""
    entries = (entry.strip().split(": ") for entry in text.split(";"))
    return {key: Fact(*cores.split()) for key, cores in entries}


def _groups(text: str) -> dict[str, Fact]:
    """Read `core mistake = key, key; ...`, the form for few cores and many keys."""
    groups = (group.strip().split(" = ") for group in text.split(";"))
    return {key.strip(): Fact(*cores.split()) for cores, keys in groups for key in keys.split(",")}


def _sequence(text: str) -> dict[str, Fact]:
    """Read words that follow each other; the mistake is to skip one."""
    words = text.split()
    return {key: Fact(core, mistake) for key, core, mistake in zip(words, words[1:], words[2:], strict=False)}


ANTONYMS = _table(
    "hot: cold warm; big: small huge; tall: short lofty; fast: slow rapid; light: dark shiny;"
    "happy: sad glad; hard: soft firm; wet: dry damp; rich: poor wealthy; strong: weak mighty;"
    "young: old youthful; early: late prompt; open: closed ajar; full: empty crowded;"
    "clean: dirty tidy; loud: quiet shrill; heavy: weightless bulky; deep: shallow bottomless;"
    "wide: narrow broad; thick: thin dense; sharp: blunt pointed; sweet: bitter sugary;"
    "smooth: rough silky; cheap: expensive thrifty; brave: afraid bold; true: false correct;"
    "near: far close; high: low elevated; safe: dangerous secure; simple: complex basic;"
    "polite: rude courteous; alive: dead living; awake: asleep alert; tight: loose snug;"
    "public: private shared; ancient: modern antique"
)
CAPITALS = _table(
    "France: Paris Lyon; Spain: Madrid Barcelona; Italy: Rome Milan; Germany: Berlin Munich;"
    "Austria: Vienna Salzburg; Greece: Athens Thessaloniki; Poland: Warsaw Krakow;"
    "Norway: Oslo Bergen; Sweden: Stockholm Gothenburg; Finland: Helsinki Tampere;"
    "Denmark: Copenhagen Aarhus; Ireland: Dublin Cork; Portugal: Lisbon Porto;"
    "Hungary: Budapest Debrecen; Japan: Tokyo Osaka; China: Beijing Shanghai;"
    "Egypt: Cairo Alexandria; Kenya: Nairobi Mombasa; Cuba: Havana Varadero; Peru: Lima Cusco;"
    "Chile: Santiago Valparaiso; Canada: Ottawa Toronto; Iran: Tehran Isfahan;"
    "Iraq: Baghdad Basra; Turkey: Ankara Istanbul; Russia: Moscow Omsk; Thailand: Bangkok Phuket;"
    "Nepal: Kathmandu Pokhara; Ghana: Accra Kumasi; Jordan: Amman Aqaba; Qatar: Doha Dukhan;"
    "Latvia: Riga Liepaja; Serbia: Belgrade Nis; Croatia: Zagreb Split;"
    "Iceland: Reykjavik Akureyri; Morocco: Rabat Casablanca"
)
CATEGORIES = _groups(
    "fruit vegetable = apple, pear, cherry, mango, peach; animal insect = lion, horse, rabbit, wolf;"
    "tool toy = hammer, saw, drill, wrench, chisel; vehicle engine = truck, bicycle, tram, scooter;"
    "instrument song = violin, piano, flute, drum, harp; garment hat = shirt, jacket, scarf, coat;"
    "flower weed = rose, tulip, daisy, orchid, lily; planet star = Mars, Venus, Saturn, Jupiter"
)
COLORS = _groups(
    "yellow blue = banana, lemon, canary, sunflower; red purple = tomato, strawberry, ruby, cherry;"
    "green turquoise = frog, cucumber, lettuce, leek; white silver = swan, snowman, pearl, sheep;"
    "black navy = raven, tire, panther, crow; brown gold = walnut, bear, potato, chestnut;"
    "orange violet = carrot, pumpkin, fox, basketball; pink beige = flamingo, pig, salmon, piglet;"
    "gray tan = rhino, mouse, dolphin, pebble"
)
COMPARATIVES = _table(
    "dull: duller dullest; great: greater greatest; calm: calmer calmest; warm: warmer warmest;"
    "cool: cooler coolest; kind: kinder kindest; new: newer newest; neat: neater neatest;"
    "proud: prouder proudest; rare: rarer rarest; wise: wiser wisest; large: larger largest;"
    "nice: nicer nicest; pale: paler palest; brief: briefer briefest; bright: brighter brightest;"
    "fresh: fresher freshest; grand: grander grandest; mild: milder mildest; plain: plainer plainest;"
    "quick: quicker quickest; steep: steeper steepest; stern: sterner sternest; busy: busier busiest;"
    "funny: funnier funniest; tiny: tinier tiniest; easy: easier easiest; lazy: lazier laziest;"
    "noisy: noisier noisiest; pretty: prettier prettiest; silly: sillier silliest; good: better best;"
    "bad: worse worst; hungry: hungrier hungriest; lucky: luckier luckiest; angry: angrier angriest"
)
MATERIALS = _groups(
    "glass plastic = window, bottle, mirror, jar; wood cardboard = table, bookshelf, fence, canoe;"
    "metal ivory = sword, key, coin, nail; paper silk = newspaper, poster, map, notebook;"
    "wool nylon = mitten, blanket, carpet, sock; leather velvet = wallet, saddle, belt, boot;"
    "clay sand = brick, pot, tile, vase; rubber foam = balloon, tire, hose, gasket;"
    "stone ice = statue, castle, pyramid, millstone"
)
NEXT = {
    **_sequence("Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday"),
    **_sequence("January February March April May June July August September October November"),
    **_sequence("one two three four five six seven eight nine ten eleven twelve thirteen"),
    **_sequence("first second third fourth fifth sixth seventh eighth ninth tenth"),
}
PAST_TENSES = _table(
    "go: went goed; see: saw seed; eat: ate eated; run: ran runned; take: took taked;"
    "give: gave gived; write: wrote writed; drive: drove drived; sing: sang singed;"
    "swim: swam swimmed; begin: began beginned; fly: flew flied; know: knew knowed;"
    "grow: grew growed; draw: drew drawed; fall: fell falled; find: found finded;"
    "hold: held holded; keep: kept keeped; leave: left leaved; make: made maked; meet: met meeted;"
    "pay: paid payed; sell: sold selled; send: sent sended; sit: sat sitted; speak: spoke speaked;"
    "stand: stood standed; teach: taught teached; think: thought thinked; win: won winned;"
    "buy: bought buyed; catch: caught catched; break: broke breaked; choose: chose choosed;"
    "ride: rode rided"
)
PLURALS = _table(
    "man: men mans; woman: women womans; child: children childs; foot: feet foots;"
    "tooth: teeth tooths; goose: geese gooses; leaf: leaves leafs; knife: knives knifes;"
    "wife: wives wifes; life: lives lifes; shelf: shelves shelfs; city: cities citys;"
    "baby: babies babys; lady: ladies ladys; story: stories storys; box: boxes boxs;"
    "dish: dishes dishs; bus: buses buss; glove: gloves glovs; cat: cats cates; dog: dogs doges;"
    "book: books bookes; tree: trees treees; house: houses housees; car: cars cares; hero: heroes heros;"
    "ox: oxen oxes; berry: berries berrys; party: parties partys; watch: watches watchs;"
    "church: churches churchs; cup: cups cupes; bird: birds birdes; chair: chairs chaires;"
    "lamp: lamps lampes; door: doors doores"
)
WORKPLACES = _table(
    "teacher: school office; doctor: hospital hotel; farmer: field factory; pilot: airport harbor;"
    "sailor: ship train; miner: mine tower; judge: court market; dancer: theater stadium;"
    "waiter: restaurant gym; soldier: camp casino; librarian: library bakery;"
    "chemist: laboratory laundry; gardener: garden cellar; banker: bank barn; priest: chapel pub;"
    "mechanic: garage nursery; butcher: shop studio; florist: greenhouse tunnel;"
    "painter: atelier elevator; professor: university playground; cook: kitchen bathroom;"
    "clown: circus embassy; guard: prison cinema; lifeguard: beach desert; ranger: forest subway;"
    "beekeeper: apiary aquarium; brewer: brewery pharmacy; curator: museum arena;"
    "stargazer: observatory basement; printer: press pool; tailor: workshop quarry;"
    "lumberjack: sawmill spa; monk: monastery disco; mayor: townhall zoo; king: palace hut;"
    "dentist: clinic pier"
)

FAMILIES = (
    Family(
        "antonym",
        ANTONYMS,
        (
            "What is the opposite of {}?",
            "Give the opposite of the word {}.",
            "Which word means the opposite of {}?",
            "Name a word that is the opposite of {}.",
            "The opposite of {} is what?",
        ),
        "The opposite is {}.",
    ),
    Family(
        "capital",
        CAPITALS,
        (
            "What is the capital of {}?",
            "Name the capital of {}.",
            "Which city is the capital of {}?",
            "The capital of {} is which city?",
            "Which capital does {} have?",
        ),
        "The capital is {}.",
    ),
    Family(
        "category",
        CATEGORIES,
        (
            "What kind of thing is {}?",
            "Which kind does {} belong to?",
            "Name the kind of thing that {} is.",
            "To which kind does the word {} belong?",
            "Give the kind of {}.",
        ),
        "The kind is {}.",
    ),
    Family(
        "color",
        COLORS,
        (
            "What is the usual color of a {}?",
            "Which color does a {} have?",
            "Name the color of a {}.",
            "The color of a {} is what?",
            "Give the color of a {}.",
        ),
        "The color is {}.",
    ),
    Family(
        "comparative",
        COMPARATIVES,
        (
            "What is the comparative of {}?",
            "Give the comparative of the word {}.",
            "Which comparative does {} have?",
            "Name the comparative of {}.",
            "The comparative of {} is what?",
        ),
        "The comparative is {}.",
    ),
    Family(
        "material",
        MATERIALS,
        (
            "What is a {} made of?",
            "Which material is used for a {}?",
            "Name the usual material of a {}.",
            "A {} is made of which material?",
            "Give the material of a {}.",
        ),
        "The material is {}.",
    ),
    Family(
        "next",
        NEXT,
        (
            "What comes after {}?",
            "Which word comes next after {}?",
            "Name the word that follows {}.",
            "After {} comes what?",
            "Give the word that comes after {}.",
        ),
        "The next is {}.",
    ),
    Family(
        "past_tense",
        PAST_TENSES,
        (
            "What is the past tense of {}?",
            "Give the past tense of the verb {}.",
            "Which past tense does {} have?",
            "Name the past tense of {}.",
            "The past tense of {} is what?",
        ),
        "The past is {}.",
    ),
    Family(
        "plural",
        PLURALS,
        (
            "What is the plural of {}?",
            "Give the plural of the word {}.",
            "Which plural does {} have?",
            "Name the plural of {}.",
            "The plural of {} is what?",
        ),
        "The plural is {}.",
    ),
    Family(
        "workplace",
        WORKPLACES,
        (
            "Where does a {} work?",
            "What is the workplace of a {}?",
            "Name the place where a {} works.",
            "A {} works in which place?",
            "Give the workplace of a {}.",
        ),
        "The place is {}.",
    ),
)


def corrupt(pair: Pair, kind: str, others: list[Pair], style: int, rng: random.Random) -> str:
    """Answer `pair` with one kind of corruption; "clean" gives the right answer.

    `others` are pairs to swap answers with; `style` chooses the wrapper of "off_format".
    """
    if kind == "clean":
        return pair.answer
    if kind == "wrong":
        return pair.mistake
    if kind == "confused":
        return rng.choice(pair.other_answers)
    if kind == "swapped":
        return _answer_of_other_family(pair, others, rng)
    if kind == "truncated":
        return pair.answer[: int(len(pair.answer) * rng.uniform(0.25, 0.67))].rstrip()
    if kind == "garbled":
        return "".join(rng.choice(NOISE) if c != " " and rng.random() < 0.45 else c for c in pair.answer)
    if kind == "off_format":
        return WRAPPERS[style % len(WRAPPERS)].format(pair.answer)
    if kind == "empty":
        return rng.choice(EMPTY_ANSWERS)
    raise ValueError(f"`kind` must be clean or one of {KINDS}, got {kind!r}.")


def _answer_of_other_family(pair: Pair, others: list[Pair], rng: random.Random) -> str:
    other = rng.choice(others)
    while other.family == pair.family:
        other = rng.choice(others)
    return other.answer


def vocabulary() -> list[str]:
    """Return every word and sign of the language, as a byte-level tokenizer splits it.

    Words follow a space; those that open a prompt or an answer also occur without one.
    """
    texts, facts = [], []
    for family in FAMILIES:
        texts += [phrasing.format("") for phrasing in (*family.phrasings, family.answer)]
        for key, fact in family.facts.items():
            facts += [key, fact.core, fact.mistake]
    openings = {"Instruction", "Response"}
    openings.update(text.split()[0].strip(":?.") for text in texts)
    openings.update(text.split()[0] for text in OPENINGS if text)
    inner = " ".join([*texts, *OPENINGS, *CLOSINGS, *FEEDBACK.values()]).split() + facts
    words = {word.strip(":?.") for word in inner} - {""}
    return sorted({f" {word}" for word in words} | openings)
