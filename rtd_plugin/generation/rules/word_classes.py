"""English words that the rules must tell apart: kinds of attributes, people, and names of the same thing.

Substitutes come from the captions; these lists only say which words may replace each other.
"""

from itertools import combinations


def make_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


def _split_groups(text: str) -> list[str]:
    """Return the texts between bars, on any number of lines."""
    return " ".join(text.split()).split(" | ")


# The values of each kind of attribute; words of one value, after commas, mean the same. A value is exchanged for
# another one of its kind.
_ATTRIBUTES = {
    "colour": "black|white|red|brown|blue|navy|green|yellow|pink|orange|purple,violet|grey,gray|blond,blonde|"
    "beige,tan,cream|golden,gold|silver|maroon,burgundy|turquoise,teal|charcoal|khaki|olive|ivory|emerald",
    "size": "small,little,tiny,miniature|medium,medium-sized,medium sized|large,big,huge,giant,enormous",
    "height": "tall,high|short,low",
    "age": "young,younger,teenage|old,older,elderly",
    "pattern": "striped|spotted,dotted,speckled,polka dot|plaid,checkered,checked|floral,flowered|plain,solid|paisley|"
    "patterned,printed|embroidered|sequined",
    "brightness": "dark|bright,light",
    "material": "wooden,wood|metal|plastic|brick|stone|concrete,cement|leather|denim|glass|ceramic|"
    "stainless steel,steel|aluminum|cast iron,iron|bamboo|walnut|oak|rubber|silicone|cotton|linen|wool|silk|satin|"
    "velvet|lace,lacy|suede|fleece|canvas|straw",
    "state": "open|closed",
    "filling": "empty|full|crowded,busy",
    "weather": "sunny|cloudy|foggy|rainy|snowy",
    "ground": "grassy|snowy|rocky|sandy|muddy|icy|paved",
    "hair": "bald|blond,blonde|bearded",
    "fur": "fluffy,furry,shaggy|hairless",
    "sleeves": "sleeveless|short-sleeved|long-sleeved",
    "length": "long|short",
    "fit": "tight,fitted,slim,slim-fit|loose,relaxed|oversized",
    "hem": "mini|knee-length|midi,calf-length|maxi,ankle-length",
    "waist": "high-waisted|mid-rise|low-rise",
    "leg": "skinny|straight-leg|wide-leg|flared",
    "wearer": "men's,mens|women's,womens|kids',kids,children's|toddler",
    "connection": "wired|wireless,cordless",
    "shape": "round,circular|square|rectangular|oval",
    "tip": "pointed|rounded",
    "bend": "straight|curved",
    "thickness": "thin|thick",
    "width": "narrow|wide",
    "finish": "shiny,glossy|matte,dull",
    "occasion": "casual|sporty,athletic|formal,elegant,fancy",
    "neckline": "v-neck,v-necked|round-neck,round-necked,crew-neck|scoop-neck,scoop-necked|boat-neck|"
    "polo-neck,turtleneck|halter-neck,halter|strapless|off-the-shoulder|one-shoulder",
    "fastening": "button-down,button-up|zip-up,zip-through",
    "transparency": "sheer,see-through|opaque",
    "exposure": "revealing|modest",
    "variety of colours": "colorful,colourful,multicolored|monochrome,colorless",
    "surface": "smooth|rough",
    "style": "outline,line|filled,glyph|flat|isometric|hand-drawn",
    "direction": "upward|downward",
    "course": "acute|chronic",
    "growth": "benign|malignant",
    "extent": "partial|complete",
    "regularity": "regular|irregular",
    "plane": "axial|coronal|sagittal",
    "view": "frontal|lateral",
    "side": "left|right",
    "position": "upper|lower",
    "degree": "mild|moderate|severe",
}
# Kinds whose values suit most things that have one of them.
GENERAL = frozenset(("colour", "size", "side", "degree"))
# Kinds that nouns before another noun may have; others, such as "light" in "light bulb", are a part of its name.
OF_COMPOUNDS = make_set("""
    colour pattern material sleeves fit hem waist leg wearer connection shape style direction course growth plane view
""")
COMPARATIVES = {
    "small": "smaller", "little": "smaller", "tiny": "smaller", "large": "larger", "big": "bigger",
    "huge": "much larger", "giant": "much bigger", "tall": "taller", "high": "higher", "short": "shorter",
    "low": "lower", "young": "younger", "old": "older", "elderly": "older", "dark": "darker", "bright": "brighter",
    "light": "lighter", "long": "longer", "tight": "tighter", "loose": "looser", "wide": "wider",
    "narrow": "narrower", "thin": "thinner", "thick": "thicker", "shiny": "shinier", "casual": "more casual",
    "formal": "more formal", "elegant": "more elegant", "fancy": "fancier", "revealing": "more revealing",
    "modest": "more modest", "colorful": "more colorful", "colourful": "more colourful",
}  # fmt: skip

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

# The age, sex and occupation that a word for a person implies ("-": none). Words without a contradiction may name one
# person.
_PEOPLE = {
    "man": "adult male -", "guy": "adult male -", "gentleman": "adult male -", "male": "- male -",
    "father": "adult male -", "dad": "adult male -", "woman": "adult female -", "lady": "adult female -",
    "female": "- female -", "mother": "adult female -", "mom": "adult female -", "bride": "adult female bride",
    "groom": "adult male groom", "boy": "child male -", "girl": "child female -", "child": "child - -",
    "kid": "child - -", "toddler": "child - -", "baby": "child - -", "infant": "child - -", "adult": "adult - -",
    "person": "- - -", "people": "- - -", "teenager": "child - -", "teen": "child - -", "couple": "- - -",
    "family": "- - -", "friend": "- - -", "someone": "- - -", "individual": "- - -", "son": "child male -",
    "daughter": "child female -", "brother": "- male -", "sister": "- female -", "youth": "child - -",
}  # fmt: skip
_SAME_ROLE = _split_groups("""
    biker cyclist bicyclist rider | skateboarder skater | surfer | skier | snowboarder | climber hiker | swimmer
    | diver | player | runner jogger racer | dancer | musician guitarist | worker | soldier | cowboy | policeman
    | officer cop police | fisherman | athlete player | wrestler boxer | rollerblader | gymnast | cheerleader |
    spectator | motorcyclist biker rider | kayaker | golfer | batter pitcher | clown | chef | doctor | nurse |
    student | teacher | performer singer musician | goalie goalkeeper
""")
ROLES = frozenset(" ".join(_SAME_ROLE).split())

# Names of one thing, or of a thing and its hypernym: never exchanged.
_SAME = _split_groups("""
    bike bicycle | motorcycle motorbike bike dirtbike | couch sofa seat | street road highway sidewalk path |
    ocean sea water wave | lake pond river water stream pool puddle | dirt ground mud sand soil floor | grass
    lawn field yard park meadow | rock stone boulder | mountain hill cliff peak slope | jacket coat | shirt
    t-shirt tshirt top tee blouse shirts | cap hat | sunglass glass goggle | car vehicle truck van suv |
    building house store shop | dog puppy pup greyhound animal poodle terrier retriever | cat kitten animal |
    forest wood tree jungle | snow ice | path trail road track sidewalk | toy ball frisbee disc | uniform outfit
    costume clothe clothing gear suit | bench chair seat | boat canoe kayak raft ship | shore beach ocean coast
    sand sea | horse pony animal | bird duck goose animal seagull | city town street | fence gate railing | ramp
    slope | pool water | bush tree plant | flower plant | playground park | picture photo | stair step | trail
    path | cell phone cellphone phone | rope leash cord | bag backpack purse | rug carpet | drink beverage beer
    water | stick branch log | snowsuit suit jacket | swimsuit bikini suit | skirt dress | pant jean short
    trouser | scarf bandana | sweater sweatshirt shirt hoodie | air sky | sunset sun | pier dock | swing
    swingset | statue sculpture | canyon cliff | hurdle obstacle pole bar | collar leash | crowd audience people
    | stadium arena field | court field | river stream creek | fountain water | shoreline shore beach | tank
    tanktop top | surfboard board | skateboard board | snowboard board | wave surf | area place | yard backyard
    | restaurant cafe | wood log | wall building | table desk | frisbee disc | football ball | baseball ball |
    basketball ball | trick stunt jump | rail railing bar | waterfall water | sandbox sand | game match | course
    track | mouth tongue | boot shoe | sneaker shoe | sandal shoe | newspaper paper | book paper
""")

_SAME_ACTIONS = _split_groups("""
    jumping leaping hopping bouncing bounding | lying laying resting relaxing sleeping | running jogging
    sprinting racing dashing | walking strolling hiking wandering | looking staring gazing watching peering |
    fighting wrestling scrambling tussling | talking chatting conversing speaking | splashing playing swimming
    wading | standing posing waiting | sliding sledding | flying soaring | smiling laughing grinning | sitting
    seated resting relaxing squatting | climbing scaling hiking | skiing snowboarding | riding biking cycling |
    performing playing | moving going walking running | skating skateboarding
""")
# Parts of things and of bodies, measures, pictures: exchanging one alone makes no sense.
FIXED = frozenset(
    _split_groups("""
    front side top middle back background edge air distance way camera picture photo photograph image group
    couple pair bunch crowd number lot row line team member variety set type kind piece part end bottom center
    corner inside outside midair mid-air other one each something someone anything nothing everything thing
    object item foreground view scene mouth hand face head hair arm leg foot eye ear nose tongue finger shoulder
    body neck tail paw lap knee tooth chest mid wing beak bill crown crest throat breast belly rump forehead cheek
    eyebrow eyering wingbar feather nape toe heel sole waist waistband sleeve neckline hem surface border margin
    position action motion direction color colour size style leap
    jump run walk ride climb play look smile stand pose swing turn catch race slide splash game trick stunt
    match event time day night weather sun sunset shadow reflection sort while use name place area spot right
    left self fun dance talk swim rest fight laugh wait ones others half hundred dozen male female short
""")[0].split()
)

ANIMALS = frozenset(
    _split_groups("""
    dog puppy cat kitten horse pony cow bull goat sheep lamb pig boar monkey gorilla baboon chimpanzee orangutan ape
    bear panda lion tiger leopard cheetah wolf fox hyena jackal deer antelope gazelle elephant zebra giraffe camel llama
    bird duck goose swan parrot penguin pelican owl eagle chicken hen rooster turkey flamingo rabbit hamster mouse rat
    squirrel marmot beaver otter seal walrus dolphin lizard turtle frog bulldog poodle terrier husky hound spaniel
    retriever beagle pug corgi dalmatian greyhound buffalo bison warthog lemur sloth animal
""")[0].split()
)

MALE, FEMALE = (
    frozenset(word for word, traits in _PEOPLE.items() if f" {sex} " in f" {traits} ") for sex in ("male", "female")
)
PEOPLE = frozenset(_PEOPLE) | ROLES


def _index_attributes() -> dict[str, list[tuple[str, int]]]:
    attributes: dict[str, list[tuple[str, int]]] = {}
    for kind, values in _ATTRIBUTES.items():
        for value, words in enumerate(values.split("|")):
            for word in words.split(","):
                attributes.setdefault(word, []).append((kind, value))
    return attributes


ATTRIBUTES = _index_attributes()
"""A word to its kinds of attribute, each with the index of its value."""


def _list_pairs(groups: list[str]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for group in groups for a, b in combinations(group.split(), 2) for pair in ((a, b), (b, a)))


_SAME_THING = _list_pairs([*_SAME, *_SAME_ROLE])
_SAME_ACTION = _list_pairs(_SAME_ACTIONS)


def may_be_same_action(first: str, second: str) -> bool:
    """Return whether two verbs in the progressive may name one action."""
    return first == second or (first, second) in _SAME_ACTION


def may_be_same_thing(first: str, second: str) -> bool:
    """Return whether two singular nouns may name one thing."""
    if first == second or (first, second) in _SAME_THING:
        return True
    if first in PEOPLE and second in PEOPLE:
        if first in ROLES and second in ROLES:
            return False
        traits = (_PEOPLE.get(word, "- - -").split() for word in (first, second))
        return all(a == b or "-" in (a, b) for a, b in zip(*traits, strict=True))
    return False


def find_other_values(word: str) -> dict[str, str]:
    """Return the words for other values of an attribute, each with the attribute's kind."""
    return {
        candidate: kind
        for kind, value in ATTRIBUTES.get(word, ())
        for candidate, classes in ATTRIBUTES.items()
        for candidate_kind, candidate_value in classes
        if candidate_kind == kind and candidate_value != value
    }
