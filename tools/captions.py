"""Captions of the rendered art, exact and bilingual.

One vocabulary for the pictures that ``mini`` learns from, for the sample set and for benchmarks:
``caption(attributes, "zh", rng)`` words the attributes that ``render_art.mjs`` wrote down.
"""

import random

HAIR = {
    "purple": ("紫色", "purple"), "black": ("黑色", "black"), "brown": ("棕色", "brown"), "blonde": ("金色", "blonde"),
    "red": ("红色", "red"), "pink": ("粉色", "pink"), "blue": ("蓝色", "blue"), "green": ("绿色", "green"), "white": ("白色", "white"),
}
COLORS = {
    "red": ("红色", "red"), "blue": ("蓝色", "blue"), "green": ("绿色", "green"), "yellow": ("黄色", "yellow"), "purple": ("紫色", "purple"),
    "white": ("白色", "white"), "black": ("黑色", "black"), "pink": ("粉色", "pink"), "orange": ("橙色", "orange"), "gray": ("灰色", "gray"),
}
LENGTH = {"short": ("短发", "short"), "long": ("长发", "long")}
PERSON = {"girl": ("女孩", "girl"), "boy": ("男孩", "boy")}
# First word of each list is the one the sample set uses.
EXPRESSION = {
    "smiling": (["微笑", "面带微笑"], ["smiling", "with a smile"]),
    "laughing": (["大笑", "开心大笑"], ["laughing", "laughing happily"]),
    "sad": (["难过", "伤心"], ["sad", "looking sad"]),
    "surprised": (["惊讶", "吃惊"], ["surprised", "looking surprised"]),
    "asleep": (["闭着眼睛", "睡着了"], ["eyes closed", "asleep"]),
    "winking": (["眨眼", "眨一只眼"], ["winking", "with a wink"]),
}
SCENE = {
    "seaside": (["海边", "沙滩"], ["seaside", "beach"]), "forest": (["森林", "树林"], ["forest", "woods"]),
    "night": (["夜空", "星空"], ["night sky", "starry night"]), "rain": (["雨天", "下雨"], ["rain", "rainy day"]),
    "snow": (["雪地", "下雪"], ["snow", "snowy day"]), "sunset": (["日落", "夕阳"], ["sunset", "evening sun"]),
    "classroom": (["教室", "黑板前"], ["classroom", "blackboard"]), "home": (["家里", "客厅沙发"], ["home", "living room sofa"]),
    "city": (["城市", "高楼"], ["city", "skyscrapers"]), "stage": (["舞台", "舞台灯光"], ["stage", "stage lights"]),
    "garden": (["花园", "草地鲜花"], ["garden", "meadow with flowers"]), "space": (["太空", "宇宙"], ["space", "outer space"]),
}
PROP = {
    "balloon": (["拿着气球", "气球"], ["holding a balloon", "balloon"]), "umbrella": (["撑着雨伞", "雨伞"], ["under an umbrella", "umbrella"]),
    "book": (["看书", "书本"], ["reading a book", "book"]), "guitar": (["弹吉他", "吉他"], ["playing the guitar", "guitar"]),
    "cat": (["抱着小猫", "小猫"], ["with a cat", "cat"]), "flowers": (["捧着花束", "花束"], ["holding a bouquet", "bouquet"]),
    "cup": (["喝咖啡", "咖啡"], ["drinking coffee", "coffee"]), "ice_cream": (["吃冰淇淋", "冰淇淋"], ["eating ice cream", "ice cream"]),
    "camera": (["拿着相机", "拍照"], ["with a camera", "taking photos"]), "microphone": (["拿着话筒", "唱歌"], ["with a microphone", "singing"]),
    "lantern": (["提着灯笼", "灯笼"], ["carrying a lantern", "lantern"]), "gift": (["拿着礼物", "礼物"], ["holding a gift", "gift"]),
}
STYLE = {
    "avataaars": ("扁平插画", "flat illustration"), "personas": ("极简头像", "minimal avatar"),
    "toonHead": ("卡通", "cartoon"), "micah": ("手绘头像", "hand-drawn avatar"), "lorelei": ("二次元", "anime"),
}
BLURRED = ("模糊，低质量", "blurry, low quality")
# Words that say nothing about the picture: the model learns to draw on past what it does not know.
FILLER = (
    ["高质量", "杰作", "精致", "插画", "可爱", "好看", "细节丰富", "高清", "彩色", "漫画"],
    ["best quality", "masterpiece", "detailed", "illustration", "cute", "beautiful", "high resolution", "colorful", "comic"],
)


def parts(attributes: dict, language: str, rng: random.Random | None = None, drop: float = 0.0) -> list[str]:
    """The phrases of one picture in order: style, person, expression, glasses, clothes, prop, background.

    With ``rng`` synonyms are chosen at random and each phrase is left out with probability ``drop``.
    """
    zh = language == "zh"
    word = lambda pair: pair[0 if zh else 1]
    choose = lambda pair: rng.choice(word(pair)) if rng else word(pair)[0]
    keep = lambda: rng is None or rng.random() >= drop
    who, length = word(PERSON[attributes["person"]]), word(LENGTH[attributes["hair_length"]])
    hair = word(HAIR[attributes["hair_color"]])
    said = []
    if keep():
        said.append(word(STYLE[attributes["style"]]))
    if zh:
        said.append((hair if keep() else "") + (length if keep() else "") + who)
    else:
        described = " ".join(w for w, kept in ((length, keep()), (hair, keep())) if kept)
        said.append(f"a {who} with {described} hair" if described else f"a {who}")
    if keep():
        said.append(choose(EXPRESSION[attributes["expression"]]))
    if attributes["glasses"] and keep():
        said.append("戴眼镜" if zh else "wearing glasses")
    if keep():
        color = word(COLORS[attributes["clothes_color"]])
        said.append(f"{color}衣服" if zh else f"{color} clothes")
    if attributes.get("prop") and keep():
        said.append(choose(PROP[attributes["prop"]]))
    if keep():
        place = attributes["background"]
        said.append(choose(SCENE[place]) if place in SCENE else word(COLORS[place]) + ("背景" if zh else " background"))
    return said


def caption(attributes: dict, language: str, rng: random.Random | None = None, drop: float = 0.0) -> str:
    """One caption. Without ``rng`` the plain, complete one; with it a random wording of the same facts."""
    zh = language == "zh"
    said = parts(attributes, language, rng, drop)
    if rng is None:
        return ("，" if zh else ", ").join(said)
    if rng.random() < 0.3:
        rng.shuffle(said)
    if rng.random() < 0.2:
        said.insert(rng.randint(0, len(said)), rng.choice(FILLER[0 if zh else 1]))
    if attributes.get("blurred"):
        said.insert(0, BLURRED[0 if zh else 1])
    return ("，" if zh and rng.random() < 0.9 else ", ").join(said)
