"""Plain texts and questions without images: what a language model could do before it was taught to see.

Written for this project, so no model was trained on them. A model that is adapted on images is measured on them with
its adaptation and without (`tasks.language_kept`).
"""

TEXTS: tuple[str, ...] = (
    "The train to the coast leaves at half past seven, so we should be at the station a few minutes earlier.",
    "Water boils at a lower temperature on a mountain because the air pressure there is lower.",
    "She opened the letter slowly, read it twice, and put it back into the drawer without a word.",
    "A good contract says what happens when one of the two sides does not keep its promise.",
    "In spring the farmers wait until the soil is dry enough before they sow the first seeds.",
    "The committee will meet on Thursday to discuss the budget for the coming year.",
    "If you divide a number by itself, the result is one, unless the number is zero.",
    "Most of the heat of an old house is lost through the roof and the windows.",
    "He had never learned to swim, and the sea made him nervous even from a distance.",
    "The museum is closed on Mondays, but the garden behind it stays open every day.",
    "A virus cannot reproduce by itself; it needs the machinery of a living cell.",
    "Please send me the report before noon so that I can read it on the way to the meeting.",
    "The price of wheat rose after two dry summers, and bread became more expensive.",
    "Light takes about eight minutes to travel from the sun to the earth.",
    "When the power failed, the hospital switched to its own generators within seconds.",
    "My grandmother used to say that a kitchen without garlic is only a room.",
    "The function returns an empty list when the file does not contain any valid lines.",
    "After the war the old bridge was rebuilt stone by stone from photographs.",
    "Interest that is paid on interest makes a small debt grow faster than people expect.",
    "The judge asked the witness to repeat the last sentence more slowly.",
    "Copper conducts electricity well and does not rust, which is why cables are made of it.",
    "They moved to the city for work, but every summer they went back to the village.",
    "To reset the device, hold the button for ten seconds until the green light goes out.",
    "The poem has four stanzas, and the last line of each one is the same.",
    "Doctors recommend that adults sleep between seven and nine hours a night.",
    "The river forms the border between the two countries for almost three hundred kilometres.",
    "Nobody knew who had left the window open, and nobody wanted to ask.",
    "A recipe is a list of steps, and leaving one out usually changes the result.",
    "The library lends books for four weeks and charges a small fee for each day after that.",
    "Because the two measurements disagreed, the engineers repeated the test the next morning.",
    "The language has no written form, so its stories are passed on by singing.",
    "Trade between the islands stopped during the months of strong winds.",
)
"""English prose on subjects that are no descriptions of images."""

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("How many days are there in a week?", ("seven", "7")),
    ("What is two plus two?", ("four", "4")),
    ("Which planet do we live on?", ("earth",)),
    ("What is the opposite of hot?", ("cold",)),
    ("What do bees make?", ("honey",)),
    ("What is the largest ocean on Earth?", ("pacific",)),
    ("How many months are there in a year?", ("twelve", "12")),
    ("What is frozen water called?", ("ice",)),
    ("Who wrote the play Romeo and Juliet?", ("shakespeare",)),
    ("What gas do people need to breathe?", ("oxygen",)),
    ("What is the first letter of the English alphabet?", ("a",)),
    ("In which country is the city of Rome?", ("italy",)),
    ("What is the chemical formula of water?", ("h2o",)),
    ("How many legs does a spider have?", ("eight", "8")),
    ("What is the color of the sky on a clear day?", ("blue",)),
    ("Which animal says meow?", ("cat",)),
    ("What is the capital of Italy?", ("rome",)),
    ("What star is at the center of the solar system?", ("sun",)),
)
"""Questions with the words of which an answer must contain one, in lower case."""
