"""How people ask: sentence patterns for each thing that can be asked about a term or a procedure, and ways to open.

Patterns differ in grammar, clause order and register; `docs/datasets.md` says what a pattern may hold. A pattern is
the unit of a semantic key: the wordings of one pattern are close to each other, so they stay on one side of a split.
"""

from __future__ import annotations

PHRASINGS: dict[str, tuple[str, ...]] = {
    "term.meaning": (
        "What (is meant by|do we mean by|do people here mean by) {term}?",
        "(Define|Please define|Give me a definition of) {term}.",
        "{term}: what does (that|this|the word) (mean|stand for)(| in this team| at {team})?",
        "I (came across|read|heard|stumbled over) {term} in (a ticket|the notes|the chat|an old mail). (Explain it|What is it|Meaning), please(.|?)",
        "Somebody (wrote|said|mentioned) {term}, and I (nodded|did not dare to ask|had no idea). What (is it|does it mean)?",
        "How would you explain {term} to (a new colleague|a customer|someone from sales|my manager)?",
        "If (a visitor|an intern|a contractor) asked you what {term} means, what would you (say|answer)?",
        "(Look up|Find) {term} in (our glossary|the word list) and (tell me|read me) the entry.",
        "In one sentence(|, please): {term}.",
        "(Complete|Finish) the glossary line for {term}.",
    ),
    "term.example": (
        "(Give|Show) me an example of {term}(| in a sentence).",
        "How (is|would) the word {term} (be used|get used|used) (in practice|here)?",
        "Use {term} in a sentence(| that we could have written).",
        "(I know what it means, but|The definition is clear, but) where (does|would) {term} (come up|occur)?",
        "{term}: (one example|an example|a typical case), please.",
        "What would (Ana|a colleague|one of us) say when (she talks|they talk|talking) about {term}?",
        "(Illustrate|Make me see) the term {term}(| with a case from our work).",
        "For (the handbook|the wiki|the course) I need a sentence with {term}. (Which one|What) do you (suggest|propose)?",
    ),
    "term.word": (
        "Which (word|term) do we use for this(| at {team})? {meaning}",
        "{meaning} What is (that|it) called(| here)?",
        "(Name|Give me|Tell me) the (term|word) behind this description: {meaning}",
        "There is a (word|name) for this: {meaning} I forgot it. (Which one is it|What was it)?",
        "(Crossword|Quiz|Riddle) for the team: {meaning} The (answer|solution) is?",
        "What should I (write|say) instead of this long sentence? {meaning}",
        "{meaning} (In one word|Our word), please?",
        "(Somebody|A guest) described it so: {meaning} (What did they mean|Which term did they look for)?",
    ),
    "procedure.steps": (
        "How (do|should|would) (I|we|you) {task}?",
        "(Walk|Take|Lead) me through it: how (do I|does one) {task}?",
        "(List|Name|Write down) the steps (to|it takes to) {task}.",
        "I (have|need) to {task} (today|this morning|before lunch|for the first time). What (do I do|are the steps|is the procedure)?",
        "To {task}, which steps (do|should) (I|we) (follow|take)(|, and in which order)?",
        "(Our handbook|The wiki) has (a page|an entry) on how we {task}. What does it say?",
        "(Procedure|Checklist|Recipe), please: {task}.",
        "Suppose (you|a colleague) had to {task}. What would (the plan|the order of steps|be done) (be|look like)?",
        "(Before I {task}|When I {task}), I want to (know|see) the (whole|full|complete) way. (Show|Tell) me.",
    ),
    "procedure.first": (
        "What (comes|do I do|happens) first when I {task}?",
        "Where do (I|we) (begin|start) (if|when) (I|we) {task}?",
        "I am about to {task}. (First|Opening|Initial) step?",
        "(Name|Tell me) only the first (step|thing|move) to {task}.",
        "(Step one|The very first step), please: {task}.",
        "When (I|we) {task}, (how|with what) does it (start|begin)?",
        "The first step, (when|if) I {task}, is (which one|what)?",
        "{task}: (where|how) to (start|begin)?",
    ),
    "procedure.next": (
        "I want to {task} and have done this: {step} What (comes|is|follows) next?",
        "{step} (Done|That is done|Finished)(.|!) (Next step|What now|And then), to {task}?",
        "After the step '{step}', (how|in which way) do (I|we) go on to {task}?",
        "(We|Two of us) {task}; (the last line|what) we ticked off (was|is): {step} What (follows|is left to do now)?",
        "To {task}, which step (stands|comes) (right|directly) (behind|after) this one? {step}",
        "{task}: {step} (Next|And now)?",
        "(What do I do|What is to be done) after '{step}' when I {task}?",
        "Halfway: I {task}, and I just finished '{step}' (Continue|Go on|Tell me the next one).",
    ),
    "procedure.why": (
        "Why (do we|should I|does the team) {task} (like this|in this way|by the book)?",
        "What is the (reason|thinking|idea) behind the way we {task}?",
        "(A customer|My manager|Someone new) asks why we {task} (so carefully|in that order). What (do I|should I) (say|answer)?",
        "(Give|Tell) me the (reason|argument) for our rule on how to {task}.",
        "We {task} (by fixed steps|in a fixed order). For what (reason|purpose)?",
        "{task}: why (like that|in this order|these steps)?",
        "For what reason do (I|we) {task} (this way|as the handbook says)?",
        "(I could do it faster|That looks slow): is there a reason for how we {task}?",
    ),
    "procedure.avoid": (
        "What must (I|we) (never|not) do when (I|we) {task}?",
        "(Which|What) mistake should (I|we) avoid (if|when) (I|we) {task}?",
        "(Warn|Caution) me before I {task}.",
        "I (will|am going to) {task}. Is there (a trap|something to avoid|a thing I must not do)?",
        "(Name|Tell me) the (one|single) thing that is forbidden when we {task}.",
        "{task}: what (is forbidden|must not happen)?",
        "Which (don't|taboo) (goes with it|comes with it) when I {task}?",
        "When we {task}, what (would get me into trouble|is off limits|is the classic blunder)?",
    ),
}

OPENINGS: tuple[str, ...] = (
    "(Hello|Hi|Good morning)(, it is {name}| from {place}|).",
    "{name} from {place} (is waiting for an answer|asked me this|wants to know).",
    "(A short|A quick|One) question (before|after) the {meeting}.",
    "I am (new here|on call this week|writing the handbook|preparing the {meeting}).",
    "We (discussed|talked about) this (in|before) the {meeting}.",
    "(For|Regarding) ticket {number}:",
    "{name} and I disagree (about this|here), so please decide.",
    "(It is my|This is my) {ordinal} (day|week) in {place}.",
    "(Sorry|Excuse me), (one more|another) thing.",
    "While {name} (looks at|repairs|restarts) the {thing}:",
    "(Since|As) the {thing} (is down|failed again|is being moved), I need this now.",
    "(Note|Reminder|Request) {number} from {place}:",
)
"""What may stand before a question. The answer never depends on it."""

SURROUNDINGS: dict[str, tuple[str, ...]] = {
    "name": tuple(
        "Ana Ben Chen Clara David Elena Emma Fatima Felix Grace Hannah Henry Iris Ivan Jack Julia Karen Leo Lucas Maria Mark Mia"
        " Nina Noah Olivia Omar Paul Priya Rosa Ruth Sam Simon Tina Tom Vera Victor Yuki".split()
    ),
    "place": (
        "accounting", "billing", "design", "field service", "legal", "logistics", "marketing", "operations", "payroll", "research",
        "sales", "security", "support", "the Berlin office", "the data team", "the night shift", "the Oslo office", "the platform team",
        "the test lab", "training",
    ),
    "meeting": (
        "audit", "board meeting", "code review", "customer call", "demo", "handover", "morning meeting", "planning", "release meeting",
        "retrospective", "safety drill", "training",
    ),
    "thing": (
        "build server", "cache", "dashboard", "database", "gateway", "label printer", "load balancer", "mail server", "message queue",
        "payment service", "print server", "proxy", "scheduler", "search index", "staging server", "storage node", "test bench", "web shop",
    ),
    "ordinal": ("first", "second", "third", "fourth"),
}  # fmt: skip
"""What the openings are filled with; `{number}` is drawn."""
