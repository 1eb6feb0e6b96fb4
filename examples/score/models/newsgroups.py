"""The newsgroup that a text was written to; a list of texts is accepted too."""

from score.models import Model, Text

newsgroups = Model(
    name="newsgroups",
    subject=("sub",),
    scope="newsgroups:score",
    task="classification",
    features={"text": Text(longest=20_000, about="text of a post, without headers")},
    forms=("texts",),
    decimals=4,
    about="The newsgroup that a text was written to",
)
