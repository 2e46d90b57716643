"""What ``mini`` can draw, in Chinese and English words, and which of it a prompt names.

The order of the keys is part of the weights of ``models/classifier.py``: append, never reorder.
"""

import re

HAIR = {
    "purple": ("紫色", "purple"),
    "black": ("黑色", "black"),
    "brown": ("棕色", "brown"),
    "blonde": ("金色", "blonde"),
    "red": ("红色", "red"),
    "pink": ("粉色", "pink"),
    "blue": ("蓝色", "blue"),
    "green": ("绿色", "green"),
    "white": ("白色", "white"),
}
COLORS = {
    "red": ("红色", "red"),
    "blue": ("蓝色", "blue"),
    "green": ("绿色", "green"),
    "yellow": ("黄色", "yellow"),
    "purple": ("紫色", "purple"),
    "white": ("白色", "white"),
    "black": ("黑色", "black"),
    "pink": ("粉色", "pink"),
    "orange": ("橙色", "orange"),
    "gray": ("灰色", "gray"),
}
LENGTH = {"short": ("短发", "short"), "long": ("长发", "long")}
PERSON = {"girl": ("女孩", "girl"), "boy": ("男孩", "boy")}
# the first word of each list is the one that the sample set uses
EXPRESSION = {
    "smiling": (["微笑", "面带微笑"], ["smiling", "with a smile"]),
    "laughing": (["大笑", "开心大笑"], ["laughing", "laughing happily"]),
    "sad": (["难过", "伤心"], ["sad", "looking sad"]),
    "surprised": (["惊讶", "吃惊"], ["surprised", "looking surprised"]),
    "asleep": (["闭着眼睛", "睡着了"], ["eyes closed", "asleep"]),
    "winking": (["眨眼", "眨一只眼"], ["winking", "with a wink"]),
}
SCENE = {
    "seaside": (["海边", "沙滩"], ["seaside", "beach"]),
    "forest": (["森林", "树林"], ["forest", "woods"]),
    "night": (["夜空", "星空"], ["night sky", "starry night"]),
    "rain": (["雨天", "下雨"], ["rain", "rainy day"]),
    "snow": (["雪地", "下雪"], ["snow", "snowy day"]),
    "sunset": (["日落", "夕阳"], ["sunset", "evening sun"]),
    "classroom": (["教室", "黑板前"], ["classroom", "blackboard"]),
    "home": (["家里", "客厅沙发"], ["home", "living room sofa"]),
    "city": (["城市", "高楼"], ["city", "skyscrapers"]),
    "stage": (["舞台", "舞台灯光"], ["stage", "stage lights"]),
    "garden": (["花园", "草地鲜花"], ["garden", "meadow with flowers"]),
    "space": (["太空", "宇宙"], ["space", "outer space"]),
}
PROP = {
    "balloon": (["拿着气球", "气球"], ["holding a balloon", "balloon"]),
    "umbrella": (["撑着雨伞", "雨伞"], ["under an umbrella", "umbrella"]),
    "book": (["看书", "书本"], ["reading a book", "book"]),
    "guitar": (["弹吉他", "吉他"], ["playing the guitar", "guitar"]),
    "cat": (["抱着小猫", "小猫"], ["with a cat", "cat"]),
    "flowers": (["捧着花束", "花束"], ["holding a bouquet", "bouquet"]),
    "cup": (["喝咖啡", "咖啡"], ["drinking coffee", "coffee"]),
    "ice_cream": (["吃冰淇淋", "冰淇淋"], ["eating ice cream", "ice cream"]),
    "camera": (["拿着相机", "拍照"], ["with a camera", "taking photos"]),
    "microphone": (["拿着话筒", "唱歌"], ["with a microphone", "singing"]),
    "lantern": (["提着灯笼", "灯笼"], ["carrying a lantern", "lantern"]),
    "gift": (["拿着礼物", "礼物"], ["holding a gift", "gift"]),
}
FRAMING = {
    "half": (["半身", "上半身"], ["upper body", "medium shot"]),
    "close": (["特写", "脸部特写"], ["close-up", "close-up of the face"]),
    "wide": (["远景", "全景"], ["wide shot", "long shot"]),
}
FACING = {
    "right": (["面朝右", "看向右边"], ["facing right", "looking right"]),
    "left": (["面朝左", "看向左边"], ["facing left", "looking left"]),
}
STYLE = {
    "avataaars": ("扁平插画", "flat illustration"),
    "personas": ("极简头像", "minimal avatar"),
    "toonHead": ("卡通", "cartoon"),
    "micah": ("手绘头像", "hand-drawn avatar"),
    "lorelei": ("二次元", "anime"),
}

_ZH_CLOTHES = "(?:衣服|上衣|衣|裙子|连衣裙|衬衫|外套|毛衣|T恤)"
_EN_CLOTHES = "(?:clothes|clothing|shirt|t-shirt|dress|top|sweater|jacket|coat|hoodie)"


# A1111's weights and brackets, which are no words
WEIGHTS = re.compile(r":\d+(\.\d+)?(?=[)）])|[][()（）]")


def named_attributes(prompt: str) -> dict[str, set[str]]:
    """attribute -> the values that ``prompt`` names; attributes of which it names none are absent.

    Attributes are ``hair_color``, ``hair_length``, ``expression``, ``clothes_color``, ``prop``,
    ``background``, ``framing`` and ``facing``. Where a prompt names two values of one, either will
    do.
    """
    text = " ".join(WEIGHTS.sub("", prompt.lower()).split())
    plain = _colors(text, COLORS, "(?:的)?背景", " background")
    attributes = {
        "hair_color": _colors(
            text, HAIR, "(?:的)?[长短]?(?:头)?发", r"(?:[ -](?:short|long))?[ -]hair"
        ),
        "hair_length": _lengths(text),
        "expression": _named(text, EXPRESSION),
        "clothes_color": _colors(text, COLORS, f"(?:的)?{_ZH_CLOTHES}", f" {_EN_CLOTHES}"),
        "prop": _named(text, PROP),
        "background": _named(text, SCENE) | plain,
        "framing": _named(text, FRAMING),
        "facing": _named(text, FACING),
    }
    return {attribute: values for attribute, values in attributes.items() if values}


def _lengths(text: str) -> set[str]:
    """Lengths of hair that the text names."""
    lengths = set()
    for name, (chinese, english) in LENGTH.items():
        pattern = f"{chinese[0]}(?:头)?发|{english}[ -](?:[a-z]+[ -])?hair"
        if re.search(pattern, text):
            lengths.add(name)
    return lengths


def _colors(text: str, colors: dict[str, tuple[str, str]], zh_noun: str, en_noun: str) -> set[str]:
    """Colours that stand right before a noun, alone or as the first of two, in either language."""
    named = set()
    for name, (chinese, english) in colors.items():
        in_chinese = f"{chinese.removesuffix('色')}色?(?:[和或与、].色)?{zh_noun}"
        in_english = f"\\b{english}(?: (?:and|or) [a-z]+)?{en_noun}"
        if re.search(f"{in_chinese}|{in_english}", text):
            named.add(name)
    return named


def _named(text: str, words: dict[str, tuple[list[str], list[str]]]) -> set[str]:
    """Values of which a word is in the text."""
    return {
        name
        for name, (chinese, english) in words.items()
        if any(word in text for word in chinese)
        or any(re.search(rf"\b{word}\b", text) for word in english)
    }
