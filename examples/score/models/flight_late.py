"""Whether a flight arrives more than 30 minutes late, scored when it departs: the batch prediction is a feature."""

from datetime import timedelta

from score.models import Category, Keep, Model, Number, Stored

flight_late = Model(
    name="flight-late",
    subject=("carrier",),
    scope="flight-late:score",
    task="classification",
    features={
        "departure_delay": Number(low=-120, high=1440, integer=True, about="minutes; negative is early"),
        "origin": Category(("EWR", "JFK", "LGA"), about="FAA code"),
        "batch_late": Stored(
            "flight-delays",
            id="{flight_id}",
            at="/prediction/late_probability",
            missing=None,
            max_age=timedelta(hours=36),
            kind=Number(low=0, high=1),
            about="probability that the batch model predicted on an earlier day",
        ),
        "batch_delay": Stored(
            "flight-delays",
            id="{flight_id}",
            at="/prediction/delay_minutes",
            missing=None,
            max_age=timedelta(hours=36),
            about="delay at arrival that the batch model predicted, in minutes",
        ),
    },
    decimals=4,
    keep=Keep(share=0.1),  # kept with flight_id, on which the arrival can be joined later
    about="Whether a flight arrives more than 30 minutes late",
)
