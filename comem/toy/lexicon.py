"""The words of the embedded world in six languages: names, values, sentences, questions. Data only.

Sentences take `{name}` or `{value}`; each fact has two wordings a language. Values and units are
written so that they need no inflection. Passages state the facts in the order of `FACTS`.
"""

from __future__ import annotations

LANGUAGES = ("en", "bg", "zh", "pt", "ru", "es")

# fact -> question type of InfoSeek's scorer
FACTS = {
    "founded": "Time",
    "stone": "String",
    "height": "Numerical",
    "animal": "String",
    "area": "Numerical",
    "craft": "String",
}

NAME_STARTS = (
    "Bel Cor Dra Elm Fas Gil Hor Ist Jun Kal Lum Mor Nev Ost Pel Quen Ras Sil Tor Ulm Vel Wes Xan Yor Zim "
    "Ard Bron Cyl Dun Esk Fir Gaw Hal Ivo Jas Kem Lor Mir Nol Orm Pry Rud Sar Tam Urs Vin Wyl Zan Ald Bry"
).split()
NAME_ENDS = (
    "nor dal mar wick ton ren gard lund via bor stead mere holt fell ria dor vale mont quay ness sia tor "
    "lin das bek ham ora eth unt aska ile ova urn ynd agan oby upe ithe ezza owen"
).split()
NAME_MIDDLES = "a en il or u".split()

VALUES: dict[str, dict[str, list[str]]] = {
    "stone": {
        "en": "granite marble slate basalt limestone sandstone brick timber chalk flint jade obsidian "
        "quartz gneiss clay copper iron glass pumice travertine alabaster oak cedar coral".split(),
        "es": "granito mármol pizarra basalto caliza arenisca ladrillo madera creta sílex jade obsidiana "
        "cuarzo gneis arcilla cobre hierro vidrio pómez travertino alabastro roble cedro coral".split(),
        "pt": "granito mármore ardósia basalto calcário arenito tijolo madeira giz sílex jade obsidiana "
        "quartzo gnaisse argila cobre ferro vidro pomes travertino alabastro carvalho cedro coral".split(),
        "ru": "гранит мрамор сланец базальт известняк песчаник кирпич дерево мел кремень нефрит обсидиан "
        "кварц гнейс глина медь железо стекло пемза травертин алебастр дуб кедр коралл".split(),
        "bg": "гранит мрамор шисти базалт варовик пясъчник тухла дърво креда кремък нефрит обсидиан "
        "кварц гнайс глина мед желязо стъкло пемза травертин алабастър дъб кедър корал".split(),
        "zh": "花岗岩 大理石 板岩 玄武岩 石灰岩 砂岩 砖 木材 白垩 燧石 玉 黑曜石 "
        "石英 片麻岩 黏土 铜 铁 玻璃 浮石 石灰华 雪花石膏 橡木 雪松 珊瑚".split(),
    },
    "animal": {
        "en": "heron wolf otter falcon bear stag hare owl fox raven swan badger lynx turtle salmon horse "
        "eagle seal crane boar bee goat lion whale".split(),
        "es": "garza lobo nutria halcón oso ciervo liebre búho zorro cuervo cisne tejón lince tortuga salmón "
        "caballo águila foca grulla jabalí abeja cabra león ballena".split(),
        "pt": "garça lobo lontra falcão urso veado lebre coruja raposa corvo cisne texugo lince tartaruga "
        "salmão cavalo águia foca grou javali abelha cabra leão baleia".split(),
        "ru": "цапля волк выдра сокол медведь олень заяц сова лиса ворон лебедь барсук рысь черепаха лосось "
        "конь орёл тюлень журавль кабан пчела коза лев кит".split(),
        "bg": "чапла вълк видра сокол мечка елен заек бухал лисица гарван лебед язовец рис костенурка сьомга "
        "кон орел тюлен жерав глиган пчела коза лъв кит".split(),
        "zh": "鹭 狼 水獭 猎鹰 熊 鹿 野兔 猫头鹰 狐狸 渡鸦 天鹅 獾 "
        "猞猁 乌龟 鲑鱼 马 鹰 海豹 鹤 野猪 蜜蜂 山羊 狮子 鲸".split(),
    },
    "craft": {
        "en": "honey paper pottery cheese lace wine bells salt ropes clocks silk bread soap tea violins "
        "carpets candles amber olives ships boots masks knives kites".split(),
        "es": "miel papel cerámica queso encaje vino campanas sal cuerdas relojes seda pan jabón té violines "
        "alfombras velas ámbar aceitunas barcos botas máscaras cuchillos cometas".split(),
        "pt": "mel papel cerâmica queijo renda vinho sinos sal cordas relógios seda pão sabão chá violinos "
        "tapetes velas âmbar azeitonas navios botas máscaras facas pipas".split(),
        "ru": "мёд бумага керамика сыр кружево вино колокола соль канаты часы шёлк хлеб мыло чай скрипки "
        "ковры свечи янтарь оливки корабли сапоги маски ножи змеи".split(),
        "bg": "мед хартия керамика сирене дантела вино камбани сол въжета часовници коприна хляб сапун чай "
        "цигулки килими свещи кехлибар маслини кораби ботуши маски ножове хвърчила".split(),
        "zh": "蜂蜜 纸 陶器 奶酪 花边 葡萄酒 钟 盐 绳索 钟表 丝绸 面包 "
        "肥皂 茶 小提琴 地毯 蜡烛 琥珀 橄榄 船 靴子 面具 刀 风筝".split(),
    },
}

UNITS = {
    "height": {"en": "m", "es": "m", "pt": "m", "ru": "м", "bg": "м", "zh": "米"},
    "area": {"en": "km²", "es": "km²", "pt": "km²", "ru": "км²", "bg": "км²", "zh": "平方公里"},
}

SENTENCES: dict[str, dict[str, tuple[str, str]]] = {
    "en": {
        "intro": ("{name} is a walled town.", "{name} is an old free town."),
        "founded": ("It was founded in {value}.", "The town dates from {value}."),
        "stone": ("Its walls are made of {value}.", "The wall was built from {value}."),
        "height": ("The tower is {value} high.", "Its tower rises {value}."),
        "animal": ("Its people honour the {value}.", "The animal of the town is the {value}."),
        "area": ("The town covers {value}.", "Its land measures {value}."),
        "craft": ("It is known for its {value}.", "Traders come for the {value}."),
    },
    "es": {
        "intro": ("{name} es una villa amurallada.", "{name} es una antigua villa libre."),
        "founded": ("Fue fundada en {value}.", "La villa data de {value}."),
        "stone": ("Material de la muralla: {value}.", "La muralla es de {value}."),
        "height": ("La torre mide {value} de alto.", "Altura de la torre: {value}."),
        "animal": ("Su animal es: {value}.", "Animal de la villa: {value}."),
        "area": ("La villa ocupa {value}.", "Superficie: {value}."),
        "craft": ("Es famosa por: {value}.", "Producto conocido: {value}."),
    },
    "pt": {
        "intro": ("{name} é uma vila murada.", "{name} é uma antiga vila livre."),
        "founded": ("Foi fundada em {value}.", "A vila data de {value}."),
        "stone": ("Material da muralha: {value}.", "A muralha é de {value}."),
        "height": ("A torre tem {value} de altura.", "Altura da torre: {value}."),
        "animal": ("O seu animal é: {value}.", "Animal da vila: {value}."),
        "area": ("A vila ocupa {value}.", "Área: {value}."),
        "craft": ("É famosa por: {value}.", "Produto conhecido: {value}."),
    },
    "ru": {
        "intro": ("{name} — город с крепостной стеной.", "{name} — старый вольный город."),
        "founded": ("Он основан в {value} году.", "Год основания: {value}."),
        "stone": ("Материал стены: {value}.", "Из чего стена: {value}."),
        "height": ("Высота башни: {value}.", "Башня поднимается на {value}."),
        "animal": ("Животное города: {value}.", "Здесь почитают животное: {value}."),
        "area": ("Площадь города: {value}.", "Город занимает {value}."),
        "craft": ("Город известен товаром: {value}.", "Главный товар: {value}."),
    },
    "bg": {
        "intro": ("{name} е град с крепостна стена.", "{name} е стар свободен град."),
        "founded": ("Основан е през {value} година.", "Година на основаване: {value}."),
        "stone": ("Материал на стената: {value}.", "Стената е от: {value}."),
        "height": ("Височина на кулата: {value}.", "Кулата се издига на {value}."),
        "animal": ("Животно на града: {value}.", "Тук почитат животното: {value}."),
        "area": ("Площ на града: {value}.", "Градът заема {value}."),
        "craft": ("Градът е известен със стоката: {value}.", "Главна стока: {value}."),
    },
    "zh": {
        "intro": ("{name} 是一座有城墙的镇。", "{name} 是一座古老的自由镇。"),
        "founded": ("建立年份：{value}。", "该镇始建于：{value}。"),
        "stone": ("城墙材料：{value}。", "城墙建材：{value}。"),
        "height": ("塔高：{value}。", "塔的高度：{value}。"),
        "animal": ("镇的动物：{value}。", "人们崇敬的动物：{value}。"),
        "area": ("面积：{value}。", "该镇占地：{value}。"),
        "craft": ("特产：{value}。", "以此物闻名：{value}。"),
    },
}

# sentences without a fact, so that passages differ in length
FILLERS: dict[str, tuple[str, ...]] = {
    "en": (
        "The market opens at dawn.",
        "Snow is rare in this valley.",
        "Two roads meet at the gate.",
        "Children sing on the square in spring.",
        "Many visitors stay for the summer fair.",
    ),
    "es": (
        "El mercado abre al alba.",
        "La nieve es rara en este valle.",
        "Dos caminos se unen en la puerta.",
        "Los niños cantan en la plaza.",
        "Muchos visitantes vienen a la feria.",
    ),
    "pt": (
        "O mercado abre de madrugada.",
        "A neve é rara neste vale.",
        "Dois caminhos unem-se na porta.",
        "As crianças cantam na praça.",
        "Muitos visitantes vêm à feira.",
    ),
    "ru": (
        "Рынок открывается на рассвете.",
        "Снег в долине редок.",
        "Две дороги сходятся у ворот.",
        "Дети поют на площади весной.",
        "Многие приезжают на летнюю ярмарку.",
    ),
    "bg": (
        "Пазарът отваря на разсъмване.",
        "Снегът в долината е рядък.",
        "Два пътя се срещат при портата.",
        "Децата пеят на площада през пролетта.",
        "Мнозина идват на летния панаир.",
    ),
    "zh": (
        "集市在黎明开张。",
        "山谷里很少下雪。",
        "两条路在城门相会。",
        "孩子们春天在广场唱歌。",
        "许多游客来参加夏季集市。",
    ),
}

QUESTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "en": {
        "founded": ("In which year was this town founded?", "What year does this town date from?"),
        "stone": ("What are the walls of this town made of?", "Which material was used for the wall?"),
        "height": ("How high is the tower of this town?", "What is the height of the tower?"),
        "animal": ("Which animal do its people honour?", "What is the animal of this town?"),
        "area": ("How large is the land of this town?", "What area does this town cover?"),
        "craft": ("What is this town known for?", "What do traders come here for?"),
    },
    "es": {
        "founded": ("¿En qué año fue fundada esta villa?", "¿De qué año data esta villa?"),
        "stone": ("¿De qué es la muralla de esta villa?", "¿Qué material tiene la muralla?"),
        "height": ("¿Qué altura tiene la torre?", "¿Cuánto mide la torre de esta villa?"),
        "animal": ("¿Cuál es el animal de esta villa?", "¿Qué animal tiene esta villa?"),
        "area": ("¿Qué superficie ocupa esta villa?", "¿Cuál es la superficie de esta villa?"),
        "craft": ("¿Por qué producto es famosa esta villa?", "¿Cuál es su producto conocido?"),
    },
    "pt": {
        "founded": ("Em que ano foi fundada esta vila?", "De que ano data esta vila?"),
        "stone": ("De que é a muralha desta vila?", "Que material tem a muralha?"),
        "height": ("Que altura tem a torre?", "Qual é a altura da torre desta vila?"),
        "animal": ("Qual é o animal desta vila?", "Que animal tem esta vila?"),
        "area": ("Que área ocupa esta vila?", "Qual é a área desta vila?"),
        "craft": ("Por que produto é famosa esta vila?", "Qual é o seu produto conhecido?"),
    },
    "ru": {
        "founded": ("В каком году основан этот город?", "Какой год основания города?"),
        "stone": ("Из какого материала стена города?", "Какой материал у стены?"),
        "height": ("Какова высота башни?", "На сколько поднимается башня города?"),
        "animal": ("Какое животное у этого города?", "Какое животное здесь почитают?"),
        "area": ("Какова площадь этого города?", "Сколько занимает этот город?"),
        "craft": ("Каким товаром известен город?", "Какой главный товар города?"),
    },
    "bg": {
        "founded": ("През коя година е основан градът?", "Коя е годината на основаване на града?"),
        "stone": ("От какъв материал е стената на града?", "Какъв е материалът на стената?"),
        "height": ("Каква е височината на кулата?", "На колко се издига кулата на града?"),
        "animal": ("Кое е животното на този град?", "Кое животно почитат тук?"),
        "area": ("Каква е площта на този град?", "Колко заема този град?"),
        "craft": ("С каква стока е известен градът?", "Коя е главната стока на града?"),
    },
    "zh": {
        "founded": ("这个镇的建立年份是哪一年？", "该镇始建于哪一年？"),
        "stone": ("这个镇的城墙材料是什么？", "城墙建材是什么？"),
        "height": ("这个镇的塔高多少？", "塔的高度是多少？"),
        "animal": ("这个镇的动物是什么？", "人们崇敬的动物是什么？"),
        "area": ("这个镇的面积是多少？", "该镇占地多少？"),
        "craft": ("这个镇的特产是什么？", "该镇以何物闻名？"),
    },
}

COLOURS = {
    "red": (200, 30, 40),
    "blue": (30, 60, 180),
    "green": (20, 130, 60),
    "yellow": (240, 205, 40),
    "white": (242, 242, 238),
    "black": (25, 25, 28),
    "purple": (125, 40, 140),
    "orange": (235, 125, 30),
}
DIVISIONS = ("plain", "bar", "pale", "bend", "cross", "quarters")
CHARGES = ("disc", "ring", "square", "diamond", "triangle", "star", "plus", "crescent", "bars", "drop")
