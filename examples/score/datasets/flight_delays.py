"""The dataset of the flights example, whose items the model flight-late has a feature of."""

from examples.flights.datasets.flight_delays import flight_delays

__all__ = ["flight_delays"]
