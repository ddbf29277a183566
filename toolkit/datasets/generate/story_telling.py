"""The words of the arithmetic stories: names, things, places, and each situation told in several ways.

Slots: `n`, `m` two names; `i`, `j` two kinds of things; `p` a place; `a`, `b`, … the story's numbers; `r` the result.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = tuple(
    """Ada Amir Anna Bela Carla Chen Dara Diego Ella Emil Fatima Finn Greta Hana Hugo Ines Ivo Jana Jonas Kofi Lena Leo
    Mara Milan Nadia Noah Olga Omar Petra Priya Rosa Samir Selma Tariq Theo Uma Vera Wanda Yusuf Zoe""".split()
)

ITEMS: tuple[str, ...] = tuple(
    """apples pears books pencils stamps marbles shells coins tickets stickers candles bottles plates cups chairs lamps
    tulips bulbs seeds eggs rolls biscuits lemons plums melons jars screws bolts cables batteries folders envelopes
    postcards badges ribbons buttons tiles bricks planks ropes""".split()
)

PLACES: tuple[str, ...] = tuple(
    """shop library bakery workshop school office museum garden kitchen warehouse station harbour clinic theatre market
    laboratory storeroom cellar studio hotel""".split()
)

TELLINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "gain": (
        ("{n} has {a} {i}. {m} brings {b} more. How many {i} does {n} have now?", "{n} has {r} {i} now."),
        ("There are {a} {i} in the {p}. {n} puts in {b} more. How many {i} are in the {p} then?", "Then there are {r} {i} in the {p}."),
        ("{n} counts {a} {i} in the morning and {b} in the afternoon. How many {i} is that altogether?", "Altogether that is {r} {i}."),
        ("One shelf in the {p} holds {a} {i}, the next one {b}. How many {i} are on the two shelves?", "The two shelves hold {r} {i}."),
        ("On Monday the {p} sold {a} {i}, on Tuesday {b}. How many {i} were sold on both days?", "On both days {r} {i} were sold."),
    ),
    "loss": (
        ("{n} has {a} {i} and gives {b} of them to {m}. How many {i} are left?", "{r} {i} are left."),
        ("The {p} starts the day with {a} {i} and sells {b}. How many {i} remain?", "{r} {i} remain."),
        ("Of the {a} {i} in the {p}, {b} are broken. How many {i} are whole?", "{r} {i} are whole."),
        ("{n} wants to collect {a} {i} and already has {b}. How many {i} are missing?", "{r} {i} are missing."),
    ),
    "more than": (
        ("{n} has {a} {i}, {m} has {b}. How many more {i} does {n} have?", "{n} has {r} more {i} than {m}."),
        ("{n} collected {a} {i}, which is {b} more than {m} did. How many {i} did {m} collect?", "{m} collected {r} {i}."),
        ("There were {a} {i} in the {p} last year and {b} fewer this year. How many {i} are there this year?", "This year there are {r} {i}."),
    ),
    "groups": (
        ("The {p} orders {a} boxes with {b} {i} each. How many {i} is that?", "That is {r} {i}."),
        ("{n} fills {a} bags and puts {b} {i} into every bag. How many {i} are in the bags?", "The bags hold {r} {i}."),
        ("Each of {a} children in the {p} gets {b} {i}. How many {i} are handed out?", "{r} {i} are handed out."),
        ("In the {p} stand {a} rows of {b} {i}. How many {i} stand there?", "{r} {i} stand there."),
    ),
    "sharing": (
        ("{n} shares {a} {i} equally among {b} friends. How many {i} does each friend get?", "Each friend gets {r} {i}."),
        ("In the {p}, {a} {i} are spread evenly over {b} shelves. How many {i} are on a shelf?", "There are {r} {i} on a shelf."),
        ("{n} packs {a} {i} into {b} boxes, the same number in each. How many {i} are in one box?", "One box holds {r} {i}."),
    ),
    "containers": (
        ("A bus has {b} seats. How many buses does the {p} need for {a} people?", "{r} buses are needed."),
        ("{n} has to carry {a} {i} in crates that hold {b} each. How many crates does {n} need?", "{n} needs {r} crates."),
        ("A page of {n}'s album takes {b} photos. How many pages are needed for {a} photos?", "{r} pages are needed."),
    ),
    "change": (
        ("{n} buys {a} {i} at {b} euros each and pays with {t} euros. How much change does {n} get?", "{n} gets {r} euros back."),
        ("In the {p}, {i} cost {b} euros each. {n} takes {a} and hands over {t} euros. How many euros come back?", "{r} euros come back."),
    ),
    "basket": (
        ("{n} buys {a} {i} for {b} euros each and {c} {j} for {d} euros each. What does {n} pay in all?", "{n} pays {r} euros."),
        ("The {p} sold {a} {i} at {b} euros and {c} {j} at {d} euros. How many euros came in?", "{r} euros came in."),
    ),
    "distance": (
        ("A train travels for {b} hours at {a} kilometres an hour. How far does it get?", "It gets {r} kilometres far."),
        ("{n} drives to the {p} in {b} hours and covers {a} kilometres every hour. How long is the way?", "The way is {r} kilometres long."),
    ),
    "speed": (
        ("{n} covers {a} kilometres in {b} hours at a steady pace. How many kilometres is that in one hour?", "That is {r} kilometres in one hour."),
        ("A ship needs {b} hours for {a} kilometres. How fast is it, in kilometres an hour?", "It makes {r} kilometres an hour."),
    ),
    "area": (
        ("The floor of the {p} is {a} metres long and {b} metres wide. What is its area?", "Its area is {r} square metres."),
        ("{n} sows a field of {a} by {b} metres. How many square metres is that?", "That is {r} square metres."),
    ),
    "fence": (
        ("{n}'s garden is {a} metres long and {b} metres wide. How long is the fence around it?", "The fence is {r} metres long."),
        ("A rectangle has sides of {a} and {b} centimetres. What is its perimeter?", "Its perimeter is {r} centimetres."),
    ),
    "average": (
        ("{n} scores {a}, {b} and {c} points in three games. What is the average?", "The average is {r} points."),
        ("The {p} had {a}, {b} and {c} visitors on three days. How many visitors is that a day, on average?", "On average that is {r} visitors a day."),
    ),
    "discount": (
        ("A coat costs {a} euros and is reduced by {b} percent. What does {n} pay for it?", "{n} pays {r} euros."),
        ("The {p} takes {b} percent off a bill of {a} euros. What is left to pay?", "{r} euros are left to pay."),
    ),
    "warmer": (
        ("At dawn it is {a} degrees. By noon it gets {b} degrees warmer. What does {n} read on the thermometer at noon?", "At noon it is {r} degrees."),
        ("The cold room of the {p} is at {a} degrees and warms up by {b} degrees. How many degrees is it then?", "Then it is {r} degrees."),
    ),
    "colder": (
        ("It is {a} degrees when {n} leaves the {p}. Overnight it gets {b} degrees colder. How many degrees is it then?", "Then it is {r} degrees."),
        ("{n}'s account stands at {a} euros when a bill of {b} euros is paid from it. What is the balance?", "The balance is {r} euros."),
    ),
    "fraction of": (
        ("{c}/{d} of the {a} {i} in the {p} are red. How many {i} are red?", "{r} {i} are red."),
        ("{n} has {a} {i} and sells {c}/{d} of them. How many {i} are sold?", "{r} {i} are sold."),
    ),
    "packs": (
        ("{n} has {a} {i}, buys {b} packs of {c} and gives away {d}. How many {i} are left?", "{r} {i} are left."),
        ("The {p} keeps {a} {i}. {b} boxes with {c} each arrive, and {d} are used up. How many {i} are there now?", "There are {r} {i} now."),
    ),
    "machines": (
        ("{a} machines in the {p} fill {b} bottles a minute each. How many bottles do they fill in {c} minutes?", "They fill {r} bottles."),
        ("{a} people fold {b} letters an hour each. How many letters is that in {c} hours?", "That is {r} letters."),
    ),
    "ages": (
        ("{n} is {a} years old, {m} is {b} years younger. How old will {m} be in {c} years?", "{m} will be {r} years old."),
        ("{n} is {a}. {m} was born {b} years later. What age will {m} reach {c} years from now?", "{m} will be {r} years old."),
    ),
    "recipe": (
        ("A recipe for {a} people needs {b} grams of flour. How many grams does {n} need for {c} people?", "{n} needs {r} grams."),
        ("{a} {i} weigh {b} grams, all alike. How many grams do {c} {i} weigh?", "They weigh {r} grams."),
    ),
}  # fmt: skip
