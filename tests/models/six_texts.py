"""Texts that every multilingual tower must read as its makers' own code does: four say the same, the last does not."""

TEXTS = [
    "a dog runs in the snow",
    "在雪地里奔跑的狗。",
    "Ein Hund läuft durch den Schnee …",
    "雪の中を走る犬",
    "ＦＵＬＬ　ｗｉｄｔｈ, tabs\tand\u200bstrange\u00adsigns ﬁne  two",
    "stocks fell sharply on Monday",
]
