"""What each metric means, in one plain sentence, and what it must beat: for readers of the report."""

import re

MEANINGS: dict[str, str] = {
    r"image_to_text_R@1": "Share of images for which the best of all sentences is one of their own.",
    r"text_to_image_R@1": "Share of sentences for which the best of all images is their own.",
    r"image_to_text_R@(\d+)": "Share of images with a sentence of their own among the {0} best of all sentences.",
    r"text_to_image_R@(\d+)": "Share of sentences with their own image among the {0} best of all images.",
    r"pick_1_of_(\d+)": "Share of images whose own sentence is chosen among {0} sentences drawn at random.",
    r"vqa_accuracy": "Share of questions that are answered as people answered them.",
    r"accuracy": "Share of statements that are rightly called true or false.",
    r"answered_share": "Share of questions that the model answers; the rest it leaves open because it is not sure.",
    r"(.*)_when_answered": "The same share among the questions that the model does not leave open.",
    r"zero_shot_acc1": "Share of images that are put in their class by the classes' names alone, without examples.",
    r"zero_shot_acc(\d+)": "Share of images whose class is among the {0} likeliest by the classes' names alone.",
    r"zero_shot_mean_per_class_recall": "Share put in their class by the names alone, averaged over classes.",
    r"acc1": "Share of images that are put in their class.",
    r"acc(\d+)": "Share of images whose class is among the {0} likeliest.",
    r"mean_per_class_recall": "Share of images that are put in their class, averaged over classes.",
    r"caption_truth": "Share of captions that say the whole truth about the image and nothing else.",
    r"caption_near": "Share of captions as near to what people wrote as the better half of validation's captions.",
    r"CIDEr": "Agreement of captions with what people wrote, rare words counting more: 0 is none, 10 is the "
    "same words.",
    r"Bleu_1": "Share of the captions' words that people's captions also have.",
    r"Bleu_(\d)": "Share of the captions' runs of up to {0} words that people's captions also have.",
    r"ROUGE_L": "Longest common sequence of words with a caption by people, as a share of their length.",
    r"matching_accuracy": "Share of pairs of an image and a sentence that are rightly told to belong together or not.",
    r"matching_hard_accuracy": "The same where each wrong pair is the most similar that the model knows.",
    r"masked_word_accuracy": "Share of hidden words that are guessed exactly.",
    r"caption_swap_accuracy": "Share of captions preferred to the same caption with one word exchanged.",
    r"pope_accuracy_(.*)": "Share of questions after an object ({0} ones) that are rightly answered yes or no.",
    r"pope_precision_(.*)": "Share of the model's yes, asked after {0} objects, that are right.",
    r"pope_recall_(.*)": "Share of the objects in the image to which the model says yes, among {0} ones.",
    r"pope_f1_(.*)": "Harmonic mean of precision and recall of the model's yes, asked after {0} objects.",
    r"pope_f1": "Mean over random, popular and adversarial objects of the F1 of the model's yes; always yes has 0.67.",
    r"pope_yes_ratio_(.*)": "Share of yes among the model's answers, asked after {0} objects; half would be right.",
    r"chair_i": "Share of the objects that captions name which are not in the image; lower is better.",
    r"chair_s": "Share of captions that name an object which is not in the image; lower is better.",
    r"chair_mentions": "Objects that a caption names, on the mean: naming none is never wrong.",
    r"reply_token_probability": "Probability that the model gives to a token of what people wrote, on the mean.",
    r"text_questions_before": "The same with the adaptation switched off, as the language model was read.",
    r"text_questions": "Share of plain questions without an image that are answered rightly.",
    r"image_token_probability": "Probability of an image's token after its caption and the tokens before it.",
    r"image_token_accuracy": "Share of an image's tokens that are the likeliest after caption and tokens before it.",
    r"image_token_nats": "Surprise an image token, in nats; lower is better. Its rise with other captions is what one "
    "tells.",
    r"whole_image_true": "Share of drawn images that show exactly the objects of their caption.",
    r"objects_iou": "Objects that a drawn image shares with its caption, over those in either, on the mean.",
    r"psnr": "Peak signal-to-noise ratio of images made of hard codes, in dB: 30 is close, 60 exact.",
    r"ssim": "Structural similarity of images made of hard codes and the images; 1 is equal.",
    r"codes_used": "Number of different codes in the split.",
    r"code_perplexity": "As many equally frequent codes are as varied as those in the split; 1 is a collapse.",
    r"varied_images": "Share of images with more than one code.",
    r"perplexity_ratio": "Perplexity as a multiple of what it was before training; 1 is nothing forgotten.",
    r"perplexity": "Tokens that a language model hesitates between, on the mean; 1 is certainty, lower is better.",
    r"(.*)_uncalibrated_ECE": "How far the model's own confidence is from how often it is right, before it was "
    "corrected; lower is better.",
    r"(.*)_ECE": "How far the stated confidence is from how often the model is right, on the mean; lower is better.",
}
"""Pattern of a metric's name -> what it means; the first that fits, with what its groups found."""
MOST_COMMON = ("vqa_accuracy", "accuracy")
"""Metrics whose baseline is the most common answer rather than a draw."""


def meaning(name: str) -> str:
    """What a metric of this name means, "" for an unknown metric; a kind after a colon is ignored."""
    plain = name.partition(":")[0]
    for pattern, text in MEANINGS.items():
        if found := re.fullmatch(pattern, plain):
            return text.format(*found.groups())
    return ""


def guessing(name: str) -> str:
    """What the baseline of a metric is, as the subject of a sentence."""
    return "Always giving the most common answer" if name.partition(":")[0] in MOST_COMMON else "Guessing"


REMARKS = {
    "matching_hard_accuracy": "wrong pairs are each sentence with the most similar image that it does not fit",
    "pick_1_of_10": "each image's own sentence among ten; labels get their calibration from it",
    "chair_i": "lower is better; objects are those that the data annotate or people's captions name",
    "chair_s": "lower is better; objects are those that the data annotate or people's captions name",
    "caption_near": "captions as near to what people wrote (ROUGE_L) as half of validation's were",
}
"""What a reader of a metric must know that its name does not say."""


def remark(name: str) -> str:
    """What a reader of a metric must know that its name does not say; "" where the name says it."""
    if name.endswith("_uncalibrated_ECE"):
        return "calibration error of the model's own numbers, before their calibration; lower is better"
    if name.endswith("_ECE"):
        return "expected calibration error, cross-fitted where this split fitted the calibration; lower is better"
    return REMARKS.get(name, "")
