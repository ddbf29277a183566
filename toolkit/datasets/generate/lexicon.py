"""Words for the pretraining text, by the place that they can take in a sentence.

Everyday English, and the words that word problems (GSM8K) and a software team use, so that the tokenizer's merges cover
them. Each entry is one word; order matters, since documents are drawn by position.
"""

from __future__ import annotations

NAMES = """
Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Maria Noah Olivia Paul Ruth Sam Tina Victor Alice Bob Carol
Daniel Elena Felix Hannah Ivan Julia Kevin Laura Mark Nina Oscar Peter Rosa Simon Thomas Vera William Amy Brian Cindy Eric
Fiona George Helen Jason Karen Linda Michael Natalia Patrick Rachel Steven Tom Mary John James Betty Weng Ken Julie Albert Randy
Joy Tobias Jasmine Alexis Carla Samantha Robert Susan Lisa Nancy Ryan Adam Ella Lucas Mia Omar Priya Yuki Chen Ahmed Fatima
""".split()

PEOPLE = """
farmer baker teacher doctor nurse driver sailor painter writer singer builder gardener student neighbour neighbor friend brother sister
mother father uncle aunt cousin grandmother grandfather boy girl woman man child worker manager engineer developer customer colleague
reviewer waiter cook tailor soldier judge lawyer clerk miner hunter fisherman carpenter plumber dentist librarian scientist artist
musician actor player coach captain pilot guide guest visitor stranger king queen prince princess mayor owner seller buyer tenant
""".split()

ANIMALS = """
dog cat horse cow pig goat duck hen goose rabbit mouse fox wolf bear lion tiger owl crow eagle pigeon sparrow frog snake turtle
fish whale shark bee ant spider butterfly donkey camel elephant monkey deer squirrel beaver otter chicken lamb sheep puppy kitten
""".split()

THINGS = """
apple orange pear plum lemon banana cherry peach grape melon potato tomato onion carrot cabbage pumpkin egg loaf cake pie cookie
sandwich pizza bottle cup plate bowl fork knife spoon pan pot table chair bed lamp clock mirror carpet curtain pillow blanket box
basket bag bucket barrel book letter notebook pencil pen paper envelope stamp newspaper picture map card coin ticket ring
necklace hat coat shirt dress shoe boot glove scarf sock umbrella hammer nail saw shovel rake rope ladder wheel bicycle car bus truck
train boat ship plane kite ball doll toy drum guitar violin piano flute bell candle stone brick board stick branch leaf flower rose
tulip tree seed bush feather shell key lock door window wall roof fence gate engine machine computer keyboard screen phone camera
battery cable file folder server program password message report page chapter story poem song sticker marble crayon balloon muffin
cupcake donut brownie lollipop candy chocolate bracelet bead blouse jacket jeans pair dozen gift present puzzle game video movie
magazine packet carton crate jar can tray slice piece gallon pound ounce mile kilometer meter inch foot yard
""".split()

MASS = """
water milk coffee tea juice soup bread butter cheese rice sugar salt honey flour meat oil wine sand snow ice rain wind smoke fire light
wood iron steel gold silver copper glass cotton wool silk leather rubber money time work music news advice help luck traffic
""".split()

PLACES = """
garden kitchen house school market forest river lake beach island mountain valley village town city street bridge station harbour
library museum theater hospital office factory farm field barn stable cellar attic tower castle church park square shop store bakery
restaurant hotel airport desert cave hill meadow orchard yard classroom playground pool gym laboratory workshop bank court prison
""".split()

ADJECTIVES = """
big small large little tall short long wide narrow thick thin heavy light dark bright old new young fresh clean dirty dry wet warm
cold hot cool soft hard smooth rough sharp round flat deep shallow high low fast slow quick quiet loud calm angry happy sad proud
tired hungry thirsty sleepy brave shy kind polite rude honest clever wise silly careful careless lazy busy rich poor cheap expensive
strong weak healthy sick safe dangerous easy difficult simple strange common rare famous secret empty full open closed broken whole
red blue green yellow white black brown grey pink purple golden wooden plastic useful useless important perfect pretty ugly
beautiful wonderful terrible gentle friendly lonely curious patient nervous serious funny modern ancient early late public private
correct wrong certain possible impossible equal different similar separate extra total daily weekly monthly available
""".split()

TRANSITIVE = """
finds:found carries:carried sees:saw buys:bought sells:sold paints:painted opens:opened closes:closed breaks:broke repairs:repaired
washes:washed cleans:cleaned moves:moved lifts:lifted drops:dropped throws:threw catches:caught hides:hid loses:lost keeps:kept
brings:brought takes:took sends:sent counts:counted draws:drew makes:made builds:built cuts:cut burns:burned fills:filled empties:emptied
holds:held pushes:pushed pulls:pulled turns:turned watches:watched hears:heard likes:liked loves:loved wants:wanted needs:needed
uses:used tests:tested checks:checked measures:measured weighs:weighed copies:copied shares:shared borrows:borrowed returns:returned
collects:collected orders:ordered packs:packed unpacks:unpacked wraps:wrapped touches:touched follows:followed remembers:remembered
forgets:forgot chooses:chose changes:changed saves:saved writes:wrote reads:read studies:studied describes:described
""".split()

INTRANSITIVE = """
sleeps:slept runs:ran walks:walked jumps:jumped swims:swam sings:sang dances:danced laughs:laughed cries:cried smiles:smiled
waits:waited works:worked rests:rested plays:played sits:sat stands:stood stays:stayed arrives:arrived leaves:left returns:returned
falls:fell rises:rose wakes:woke dreams:dreamed shouts:shouted whispers:whispered listens:listened thinks:thought hurries:hurried
""".split()

ADVERBS = """
slowly quickly quietly loudly carefully gladly sadly happily often always never sometimes usually early late today again soon
together alone outside inside nearby everywhere suddenly finally gently bravely politely patiently eagerly easily hardly already
""".split()

TIMES = """
morning afternoon evening night noon midnight Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April
May June July August September October November December spring summer autumn winter weekend
""".split()

ABSTRACT = """
idea plan question answer problem reason rule promise secret mistake choice chance change habit dream wish fear hope memory lesson
subject language number price cost amount profit loss share percent half third quarter double average difference distance speed
weight height length width area volume age score point salary discount tax bill budget saving payment interest rate hour minute second
day week month year century release version update branch commit merge review test error warning log backup build deploy feature
bug fix issue ticket task project team meeting goal deadline document service request response network database table query index
account user group role access permission address domain option setting default limit alarm schedule process thread memory cache
""".split()

# A few hundred further words, so that common English does not fall apart into letters.
COMMON = """
about above across after against along although among another anything around because become before began behind being believe
below beneath beside besides between beyond both bought brought built business called came cannot cause central chief clear close
college color common community company complete condition consider contain continue control could country couple course cover create
current decide decision describe design develop direction discover doctor does done doubt during each earn easily earth east
economic education effect effort either else enough entire especially even evening event ever every everyone everything example except
exercise expect experience explain express fact fail fair family favorite feel feet fewer field fifteen fifty fight figure final
finish first five floor follow food force foreign forget form forward found four free friend from front further future gather general
give given going gone good government great ground grow guess habit hand happen having head hear heart heat heavy held hello hence
here herself himself history hold home hundred husband ideal image imagine improve include increase indeed industry information instead
into itself join just keep kept kill kind knew know known language last later laugh lead learn least leave left less letter level
life like likely line list listen live local longer look lose love made main major make many matter maybe mean measure member mention
might million mind miss model moment more most mouth movement much must myself name nation nature near nearly necessary need neither
next nine none north nothing notice now object observe obtain occur offer office once only onto operation opinion order other ought
ourselves over own paid pain part particular party pass past pattern people perform perhaps period person physical pick place plan
plant please poor position power prepare present president press prevent probably produce product program property protect prove
provide pull purpose push quality quite raise range rather reach ready real realize really receive record reduce region relate remain
remember remove repeat replace report represent require research rest result return right road room rule same science season second
seem sell sense series serve seven several shall shape she should shoulder side sign since single site situation six size skill
social society soldier some somebody someone something sometimes somewhere sort sound source south space speak special spend spent spread
stage standard start state statement stay step still stock stop stream strength strong structure style subject success such suggest
supply support sure surface surprise system taken talk teach tell term than thank their them themselves then theory there therefore
these they thing think third this those though thought thousand three through throughout thus tonight took toward trade travel treat
trial trouble true trust truth try turn twelve twenty twice type under understand unit until upon usual value various very view visit
voice vote wait walk want watch way wear well west what whatever when where whether which while who whole whose why will wish
with within without woman wonder word world worry would write year yes yet young your yourself zero altogether remaining initially
twice thrice eleven thirteen fourteen sixteen seventeen eighteen nineteen thirty forty sixty seventy eighty ninety dollars cents
regular original originally calculate equation solution therefore multiply divided equals plus minus times sum product
""".split()


_IRREGULAR = {
    "fish": "fish", "sheep": "sheep", "deer": "deer", "mouse": "mice", "goose": "geese", "wolf": "wolves", "man": "men",
    "woman": "women", "child": "children", "leaf": "leaves", "loaf": "loaves", "knife": "knives", "shelf": "shelves",
    "scarf": "scarves", "half": "halves", "foot": "feet", "person": "people", "jeans": "jeans", "potato": "potatoes",
    "tomato": "tomatoes", "fisherman": "fishermen",
}  # fmt: skip


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def forms(entry: str) -> tuple[str, str]:
    """Return (present, past) of a verb entry `present:past`."""
    present, past = entry.split(":")
    return present, past
