"""The words of a report: what each means, shown where it is used and listed at the end."""

from __future__ import annotations

from markupsafe import Markup, escape

WORDS = {
    "clean accuracy": "The share of images that the model classifies correctly as they are.",
    "robust accuracy": "The share of images that are classified correctly at the worst change that any search found within "
    "eps. A stronger search may lower it: it is an upper bound.",
    "threat": "Which changes of an image are allowed. linf: every pixel value by at most eps. l2: all changes together have "
    "at most the length eps. l1: they add up to at most eps. l0: at most eps pixels change.",
    "eps": "The radius of the allowed changes, where black is 0 and white is 1: 8/255 is eight grey levels of 255.",
    "interval": "95 %: of many such samples of images, 95 of 100 intervals would hold the true share. It says nothing of "
    "stronger attacks.",
    "stage": "One attack with its settings. A plan is a list of stages, each on the images that none before it broke.",
    "distance": "How far the nearest misclassified image that was found is from the clean one, in the threat's norm.",
    "margin": "How far the right class is ahead of the best wrong one, in logits. Below 0 the image is misclassified.",
    "evaluations": "Forward and backward passes of single images: what a search costs, on whatever machine.",
    "finding": "Something a check saw that may make the number wrong: what was seen, what it means, what to do.",
}


def term(word: str, shown: str = "") -> Markup:
    """The word, with its meaning on hover and a link to the list at the end."""
    place = word.replace(" ", "-")
    meaning = escape(WORDS[word])
    return Markup(f'<a class="term" href="#word-{place}" title="{meaning}">{escape(shown or word)}</a>')
