"""Words for objects, English and Chinese: synonyms, kinds, what may be said for what, and nouns that are no objects.

Everything here is a plain table that a reader can check and extend.
"""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines "name: word, word" -> name -> words."""
    lines = (line.partition(":") for line in text.strip().splitlines())
    return {name.strip(): tuple(word.strip() for word in words.split(",")) for name, _, words in lines}


def word_set(text: str) -> frozenset[str]:
    """The words of a text, cut at white space."""
    return frozenset(text.split())


SYNONYMS = _table("""
man: guy, gentleman, male, dude, fellow
woman: lady, female
boy: lad
child: kid, youngster
baby: infant, newborn
people: folk, individual
dog: puppy, pup, canine, doggy, doggie
cat: kitten, kitty
horse: pony
bicycle: bike, pedal bike, mountain bike
motorcycle: motorbike, motor bike, dirt bike, dirtbike, motocross bike
car: automobile
airplane: plane, aeroplane, aircraft
boat: ship
tv: television
couch: sofa
cell phone: cellphone, phone, mobile phone, telephone
purse: handbag
sidewalk: pavement
rock: stone, boulder
forest: woods
ocean: sea
t-shirt: tee-shirt, tshirt
skateboard: skate board
snowboard: snow board
surfboard: surf board
traffic light: stoplight, traffic signal
stick: twig
trash can: trashcan, garbage can
refrigerator: fridge
donut: doughnut
hair drier: hair dryer
狗: 狗狗, 小狗, 犬, 小狗狗, 狗儿
猫: 猫咪, 小猫
男人: 男子, 男士, 男的, 男生
女人: 女子, 女士, 女的, 女生, 美女
小孩: 孩子, 小孩子, 小朋友, 儿童, 小孩儿, 孩童
男孩: 小男孩, 男孩子, 男孩儿
女孩: 小女孩, 女孩子, 小姑娘, 姑娘, 女孩儿
婴儿: 宝宝, 小婴儿
老人: 老者, 老年人, 老人家
人: 人们, 人物
自行车: 单车, 脚踏车
摩托车: 摩托, 机车
汽车: 轿车, 小汽车
沙滩: 海滩
马路: 街道, 道路, 大街, 公路
草地: 草坪, 草丛
石头: 岩石
椅子: 长椅, 长凳, 凳子
""")
"""Object -> words that say the same."""

KINDS = _table("""
person: man, woman, boy, girl, child, baby, people, adult, teenager, toddler, crowd, player, rider, biker, cyclist, \
bicyclist, skateboarder, skater, skier, snowboarder, surfer, swimmer, climber, hiker, runner, dancer, worker, driver, \
passenger, officer, policeman, fireman, soldier, cowboy, clown, bride, groom, mother, father, mom, dad, son, daughter, \
sister, brother, friend, couple, family, student, teacher, musician, singer, guitarist, artist, referee, pitcher, \
batter, catcher, goalie, athlete, team, audience, spectator, onlooker, bystander, tourist, pedestrian, customer, \
vendor, chef, waiter, fisherman, boater, diver, performer, member, owner, cheerleader, gymnast, wrestler, boxer, \
footballer, jockey, teammate, opponent, participant, model, grandmother, grandfather, parent, patient, nurse, doctor, \
motorcyclist, rollerblader, wakeboarder, kayaker, jogger, racer, acrobat, drummer, coach, bridesmaid, trainer, \
instructor, hunter, sailor, photographer, police
dog: greyhound, terrier, retriever, shepherd, collie, poodle, beagle, bulldog, labrador, dalmatian, hound, husky
bird: duck, pigeon, seagull, goose, swan, eagle, parrot, owl, chicken, hawk, crane, flamingo, penguin, dove
cow: bull, calf, cattle
sheep: lamb
truck: pickup
boat: canoe, kayak, raft, sailboat, rowboat, yacht, ferry
sports ball: ball, football, basketball, baseball, soccer ball, tennis ball, volleyball
dining table: table
potted plant: plant
handbag: purse
tie: necktie
backpack: rucksack
人: 男人, 女人, 小孩, 男孩, 女孩, 婴儿, 老人, 运动员, 情侣, 夫妇, 人群, 少年, \
赛车手, 大人, 行人, 老头, 老太太, 老奶奶, 老爷爷, 警察, 球员, 父子, 母女, 父女, \
母子, 男女, 母亲, 父亲, 学生, 工人, 艺人, 乐队, 路人, 年轻人, 滑雪者, 登山者, \
乘客, 教练, 裁判, 观众, 主人, 新人, 选手, 骑手, 女孩们, 黑人, 胖子, 小丑, \
少女, 队员, 游客, 家人, 朋友, 歌手, 士兵
狗: 猎狗, 狼狗, 金毛犬, 警犬, 斑点狗, 长毛狗, 土狗
鸟: 鸽子, 鸭子, 天鹅, 鹅, 鹤, 海鸥, 小鸟
车: 汽车, 自行车, 摩托车, 赛车, 越野车, 卡车, 公交车, 火车, 马车
船: 小船, 轮船, 皮划艇, 帆船
""")
"""Object -> kinds of it. Annotated objects take their kinds' words where these are not annotated themselves."""

INTERCHANGED = [
    tuple(line.split(", "))
    for line in """
grass, field, lawn, yard, park, meadow, hay, backyard, grassland, garden
water, ocean, lake, river, pool, pond, stream, wave, beach, shore, sand, surf, waterfall, creek, puddle, shoreline
street, road, sidewalk, path, track, trail, alley, driveway, crosswalk, walkway, lane, pathway, intersection, pavement
snow, ice, mountain, hill, slope, cliff, rock, hillside, mountainside, peak, ridge, mountaintop, canyon
tree, forest, bush, branch, leaf, plant, foliage, log
building, house, store, city, wall, shop, restaurant, town, hotel, museum, skyline, apartment
bicycle, motorcycle
ramp, rail, railing, stairs, step, skateboard ramp, skate park, ledge, bench, half pipe, staircase, stair
hat, cap, helmet, hood, beanie
skateboard, snowboard, surfboard, board, ski, wakeboard
jacket, coat, sweater, sweatshirt, vest, hoodie
uniform, jersey, costume, suit, dress, outfit, wetsuit, robe
sunglasses, glasses, goggles
toy, ball, football, tennis ball, soccer ball, frisbee, disc, object, stuffed animal, disk
stick, branch, pole, log
bag, backpack, purse, luggage
stadium, court, arena, field
chair, seat, bench, stool, couch
playground, swing, slide
truck, car, van, vehicle, bus, jeep
drink, cup, bottle, glass, mug, beer
food, meal, cake, bread
fence, railing, gate, wall
草地, 草, 草原, 田野, 公园, 院子
水, 海, 大海, 海水, 河, 湖, 湖水, 泳池, 游泳池, 水池, 河水, 海边, 沙滩, 浪, 海浪, 沙地, 水面, 水花, 小溪, 瀑布
马路, 路, 小路, 跑道, 人行道, 车道, 赛道, 道, 街, 街头
雪, 雪地, 雪山, 冰, 山, 山坡, 山峰, 悬崖, 石头, 山顶, 土坡, 坡
树, 树林, 森林, 树枝, 木头, 树干, 木棍, 棍子
房子, 建筑, 楼, 墙, 建筑物, 城市, 商店, 屋
自行车, 摩托车, 车, 赛车
帽子, 头盔
滑板, 滑雪板, 冲浪板, 板
眼镜, 墨镜, 太阳镜
玩具, 球, 小球, 皮球, 足球, 网球, 篮球, 棒球, 飞盘, 橄榄球, 物体
台阶, 栏杆, 楼梯, 扶手, 长椅, 椅子
地, 地面, 空地, 地板, 广场, 土地
""".strip().splitlines()
]
"""Objects of which one may be said for another, or one shows where the other is."""

BROADER = _table("""
animal: dog, cat, horse, cow, sheep, bird, goat, monkey, elephant, deer, fish, tiger, bear, rabbit, squirrel
vehicle: car, truck, bus, van, motorcycle, bicycle, train, boat, airplane, cart, tractor, jeep
instrument: guitar, drum, violin, flute, piano, trumpet, saxophone, accordion
boat: canoe, kayak, raft, sailboat, rowboat, yacht, ferry
动物: 狗, 猫, 马, 牛, 羊, 鸟, 鱼, 松鼠, 骆驼
""")
"""Word -> narrower objects: it is true of an image with one of these, which may well differ from each other."""

NOT_OBJECTS = word_set("""
front top back side middle background foreground area edge end bottom center centre distance day night way direction
number lot group couple pair piece kind type air other others one something someone somebody anything picture photo
photograph image camera view scene trick race game sport position jump leap run walk ride pose turn flip stunt time
winter summer autumn fall spring sun shade event competition match tournament concert parade performance show practice
left right corner inside outside rest world part row line pile set bunch circle middle midair mid-air dance smile look
conversation ceremony celebration party wedding home work fun love color colour pattern design style age size shape
black white red blue green yellow brown orange pink purple grey gray gold silver tan blond blonde brunette dark light
football soccer basketball baseball tennis hockey volleyball rugby golf softball lacrosse cricket wrestling karate
crouch climb swim dive catch throw kick hit attempt fight cut drop pass step-up try help tackle splash kiss place point
course shot exercise activity action motion speed high close-up closeup closer same public space surface start finish
goal opening fashion reflection landscape scenery terrain environment underwater indoors outdoors setting downtown
war class country town use manner angle level moment afternoon morning evening sunset sunrise dusk lunch dinner meal
breakfast treat marathon gathering display project job ready lay sitting standing dressed opposite half member figure
length full plain square variety types bite bath trip break wheelie wind weather cast stance handstand cartwheel
backflip somersault swing-set view-point various ones each all it them him her me us its itself himself herself american
asian african hispanic male young old little small large big short long tall adult-sized posing playing running jumping
sort maneuver slip neighborhood attention expression test mark mess midst rise say cold jumped fenced lead broken act
evil haircut nap exhibit thing sideline location order rescue site incline descent elevation series words except
festival birthday hooping contents phrase rear silhouette makeup fair draft painted covered crouched balance
东西 背影 合照 可爱 开心 微笑 表演 比赛 玩耍 打架 白色 黑色 红色 黄色 蓝色 绿色 棕色 前面 后面 旁边 上面 下面 里面
一 两 三 腾空而起 爱好者 围 高处跳 高处飞 人靠 松 狗嘴
动作 样子 时候 地方 游戏 中间 一起 空 光 大 小 漂亮 飞翔 飞奔 倒立 滑雪 冲浪 攀岩 跳跃 行驶 追逐 狂奔 轮滑 玩水
钓鱼 游泳 对望 两 俩 三 身 男 女 旁 面 后 前 上 下 空中 半空 半空中 高空 室内 室外 户外 街头 夜晚 阳光 运动 训练
拥挤 强壮 很高 影 逐 起来 赶 靠 行 那 他 吃 住 起 伸 出去 吐 张 蹲 起手 自己 相同 往 拎 暴露 摔倒 相拥 一样 三人 自行
他们 她们 它们 我们 人家 专业赛
情路 表情 舞 舞蹈 照 照片 相片 相机 镜头 对面 四周 前方 远方 远处 两旁 一旁 路旁 颜色 单 双 后背
黄 白 黑 红 蓝 绿 棕 花色 彩色 粉色 橙色 紫色 灰色 深 浅 休息 工作 飞驰 飞跃 跃 滑 飞 走 跑 腾空 做 转 爬 笑 站 坐
""")
"""Nouns that name no object to be seen in a place, colours, games, and what captions say of the photo itself."""

OFTEN_UNSAID = word_set("""
hand mouth face head hair arm leg foot eye ear nose body tongue shoulder neck finger knee chest stomach tooth cheek
lip waist chin back skin tail paw lap beard mustache moustache ponytail thumb muscle wrist forehead belly elbow hip
shirt t-shirt pants shorts clothes clothing cloth outfit shoe jeans sock attire garment sleeve gear collar boot sneaker
sneakers sandal trousers top tank tank-top belt strap short clothe tee
ground sky floor cloud dirt shadow surface earth horizon
手 头 脸 嘴 嘴巴 身体 头发 脚 腿 眼睛 耳朵 鼻子 肩膀 脖子 尾巴 舌头 肚子 手臂 胳膊 皮肤 牙齿 屁股 下巴 背 怀 身上
衣服 裤子 上衣 短裤 鞋 鞋子 衬衫 T恤 天空 地 地面 地上 影子 土 泥土 地板 黄头发 金发 手里 嘴里 手上 头上 双手 身子
""")
"""Seldom named where they are to be seen, so that the captions' silence says nothing about them."""

IRREGULAR_PLURALS = {
    word: name
    for name, words in _table("""
man: men
woman: women
child: children
foot: feet
tooth: teeth
goose: geese
mouse: mice
knife: knives
leaf: leaves
wolf: wolves
shelf: shelves
calf: calves
scarf: scarves
loaf: loaves
ox: oxen
policeman: policemen
fireman: firemen
fisherman: fishermen
gentleman: gentlemen
snowman: snowmen
""").items()
    for word in words
}
PLURAL_ONLY = word_set(
    "glasses sunglasses shorts pants jeans goggles clothes trousers leggings tights bleachers woods stairs headphones "
    "binoculars scissors dreadlocks rollerblades floaties bus gas class grass dress glass cross mattress canvas tennis "
    "harness"
)
"""Words that end like a plural and are none, or have no singular of the same meaning."""
