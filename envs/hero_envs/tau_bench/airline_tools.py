"""The fourteen airline tools. Order of checks, texts and unusual behavior are those of the public benchmark.

Because the reward compares databases, the following is kept: seats are never reduced, ``cabin`` is not updated by a
flight change, a certificate is removed regardless of the amount paid with it, a cancellation restores no balance.
"""

from __future__ import annotations

import json
from typing import Any

from hero_envs.tau_bench.common_tools import CALCULATE, THINK, TRANSFER
from hero_envs.tau_bench.database import Database, Record, copy_json
from hero_envs.tau_bench.tool import Tool

_AIRPORTS = {
    "SFO": "San Francisco",
    "JFK": "New York",
    "LAX": "Los Angeles",
    "ORD": "Chicago",
    "DFW": "Dallas",
    "DEN": "Denver",
    "SEA": "Seattle",
    "ATL": "Atlanta",
    "MIA": "Miami",
    "BOS": "Boston",
    "PHX": "Phoenix",
    "IAH": "Houston",
    "LAS": "Las Vegas",
    "MCO": "Orlando",
    "EWR": "Newark",
    "CLT": "Charlotte",
    "MSP": "Minneapolis",
    "DTW": "Detroit",
    "PHL": "Philadelphia",
    "LGA": "LaGuardia",
}


def book_reservation(
    data: Database,
    user_id: Any,
    origin: Any,
    destination: Any,
    flight_type: Any,
    cabin: Any,
    flights: Any,
    passengers: Any,
    payment_methods: Any,
    total_baggages: Any,
    nonfree_baggages: Any,
    insurance: Any,
) -> str:
    """Book flights and take the payments."""
    if user_id not in data["users"]:
        return "Error: user not found"
    reservation_id = next((key for key in ("HATHAT", "HATHAU") if key not in data["reservations"]), "HATHAV")
    reservation = {
        "reservation_id": reservation_id,
        "user_id": user_id,
        "origin": origin,
        "destination": destination,
        "flight_type": flight_type,
        "cabin": cabin,
        "flights": copy_json(flights),
        "passengers": passengers,
        "payment_history": payment_methods,
        "created_at": "2024-05-15T15:00:00",
        "total_baggages": total_baggages,
        "nonfree_baggages": nonfree_baggages,
        "insurance": insurance,
    }
    total: Any = 0
    for flight in reservation["flights"]:
        problem = _price_flight(data, flight, cabin, passengers)
        if problem:
            return problem
        total += flight["price"] * len(passengers)
    if insurance == "yes":
        total += 30 * len(passengers)
    total += 50 * nonfree_baggages

    methods = data["users"][user_id]["payment_methods"]
    for payment in payment_methods:
        payment_id, amount = payment["payment_id"], payment["amount"]
        if payment_id not in methods:
            return f"Error: payment method {payment_id} not found"
        if methods[payment_id]["source"] in ("gift_card", "certificate") and methods[payment_id]["amount"] < amount:
            return f"Error: not enough balance in payment method {payment_id}"
    paid = sum(payment["amount"] for payment in payment_methods)
    if paid != total:
        return f"Error: payment amount does not add up, total price is {total}, but paid {paid}"

    user = data["users"].edit(user_id)
    for payment in payment_methods:
        method = user["payment_methods"][payment["payment_id"]]
        if method["source"] == "gift_card":
            method["amount"] -= payment["amount"]
        elif method["source"] == "certificate":
            del user["payment_methods"][payment["payment_id"]]
    data["reservations"].put(reservation_id, reservation)
    user["reservations"].append(reservation_id)
    return json.dumps(reservation)


def cancel_reservation(data: Database, reservation_id: Any) -> str:
    """Mark as cancelled and record the refunds; a second call records refunds of the refunds."""
    if reservation_id not in data["reservations"]:
        return "Error: reservation not found"
    entries = data["reservations"][reservation_id]["payment_history"]
    refunds = [{"payment_id": entry["payment_id"], "amount": -entry["amount"]} for entry in entries]
    reservation = data["reservations"].edit(reservation_id)
    reservation["payment_history"].extend(refunds)
    reservation["status"] = "cancelled"
    return json.dumps(reservation)


def update_reservation_flights(data: Database, reservation_id: Any, cabin: Any, flights: Any, payment_id: Any) -> str:
    """Replace the flights and pay the difference; the stored cabin does not change."""
    if reservation_id not in data["reservations"]:
        return "Error: reservation not found"
    stored = data["reservations"][reservation_id]
    flights = copy_json(flights)
    total: Any = 0
    for flight in flights:
        kept = _same_flight(stored, flight, cabin)
        if kept is not None:
            flight.update({"price": kept["price"], "origin": kept["origin"], "destination": kept["destination"]})
        else:
            problem = _price_flight(data, flight, cabin, stored["passengers"])
            if problem:
                return problem
        total += flight["price"] * len(stored["passengers"])
    total -= sum(flight["price"] for flight in stored["flights"]) * len(stored["passengers"])
    problem = _payment_problem(data, stored, payment_id, total)
    if problem:
        return problem
    reservation = data["reservations"].edit(reservation_id)
    _charge(data, reservation, payment_id, total)
    reservation["flights"] = flights
    if total != 0:
        reservation["payment_history"].append({"payment_id": payment_id, "amount": total})
    return json.dumps(reservation)


def update_reservation_baggages(
    data: Database, reservation_id: Any, total_baggages: Any, nonfree_baggages: Any, payment_id: Any
) -> str:
    """Set the numbers of bags and charge 50 for each additional bag that is not free."""
    if reservation_id not in data["reservations"]:
        return "Error: reservation not found"
    stored = data["reservations"][reservation_id]
    total = 50 * max(0, nonfree_baggages - stored["nonfree_baggages"])
    problem = _payment_problem(data, stored, payment_id, total)
    if problem:
        return problem
    reservation = data["reservations"].edit(reservation_id)
    _charge(data, reservation, payment_id, total)
    reservation["total_baggages"] = total_baggages
    reservation["nonfree_baggages"] = nonfree_baggages
    if total != 0:
        reservation["payment_history"].append({"payment_id": payment_id, "amount": total})
    return json.dumps(reservation)


def update_reservation_passengers(data: Database, reservation_id: Any, passengers: Any) -> str:
    """Replace the passengers by the same number of others."""
    if reservation_id not in data["reservations"]:
        return "Error: reservation not found"
    if len(passengers) != len(data["reservations"][reservation_id]["passengers"]):
        return "Error: number of passengers does not match"
    reservation = data["reservations"].edit(reservation_id)
    reservation["passengers"] = passengers
    return json.dumps(reservation)


def send_certificate(data: Database, user_id: Any, amount: Any) -> str:
    """Give the user a certificate; at most three (the original raises an exception for a fourth)."""
    if user_id not in data["users"]:
        return "Error: user not found"
    for payment_id in ("certificate_3221322", "certificate_3221323", "certificate_3221324"):
        if payment_id not in data["users"][user_id]["payment_methods"]:
            methods = data["users"].edit(user_id)["payment_methods"]
            methods[payment_id] = {"source": "certificate", "amount": amount, "id": payment_id}
            return f"Certificate {payment_id} added to user {user_id} with amount {amount}."
    return "Error: too many certificates"


def get_user_details(data: Database, user_id: Any) -> str:
    """The user's profile as JSON."""
    users = data["users"]
    return json.dumps(users[user_id]) if user_id in users else "Error: user not found"


def get_reservation_details(data: Database, reservation_id: Any) -> str:
    """The reservation as JSON; the wrong noun in the error text is from the original."""
    reservations = data["reservations"]
    return json.dumps(reservations[reservation_id]) if reservation_id in reservations else "Error: user not found"


def list_all_airports(data: Database) -> str:
    """Airport codes and cities as JSON."""
    return json.dumps(_AIRPORTS)


def search_direct_flight(data: Database, origin: Any, destination: Any, date: Any) -> str:
    """Available flights of a route on a date, in file order."""
    flights = []
    if isinstance(origin, str) and isinstance(destination, str):
        for flight in data.base.flights_by_route.get((origin, destination), ()):
            if date in flight["dates"] and flight["dates"][date]["status"] == "available":
                flights.append(_without_dates(flight) | flight["dates"][date])
    return json.dumps(flights)


def search_onestop_flight(data: Database, origin: Any, destination: Any, date: Any) -> str:
    """Available pairs of flights with one change, in file order.

    Three errors of the original are kept: the next day is not zero-padded, times are compared as text, and the
    second leg shows the data of the first leg's day.
    """
    pairs: list[list[Record]] = []
    if not (isinstance(origin, str) and isinstance(destination, str)):
        return json.dumps(pairs)
    for first in data.base.flights_by_origin.get(origin, ()):
        arrival = first["scheduled_arrival_time_est"]
        for second in data.base.flights_by_route.get((first["destination"], destination), ()):
            second_date = f"2024-05-{int(date[-2:]) + 1}" if "+1" in arrival else date
            if arrival > second["scheduled_departure_time_est"]:
                continue
            if date not in first["dates"] or second_date not in second["dates"]:
                continue
            if first["dates"][date]["status"] != "available" or second["dates"][second_date]["status"] != "available":
                continue
            pairs.append(
                [
                    _without_dates(first) | first["dates"][date] | {"date": date},
                    _without_dates(second) | second["dates"][date] | {"date": second_date},
                ]
            )
    return json.dumps(pairs)


def _without_dates(flight: Record) -> Record:
    return {key: value for key, value in flight.items() if key != "dates"}


def _same_flight(reservation: Record, flight: Any, cabin: Any) -> Record | None:
    """The flight of the reservation with that number and day, if the cabin stays the same."""
    for stored in reservation["flights"]:
        if (
            stored["flight_number"] == flight["flight_number"]
            and stored["date"] == flight["date"]
            and cabin == reservation["cabin"]
        ):
            own: Record = stored
            return own
    return None


def _price_flight(data: Database, flight: Any, cabin: Any, passengers: Any) -> str | None:
    """Check a requested flight and add price, origin and destination to it, or return an error text."""
    number = flight["flight_number"]
    if number not in data["flights"]:
        return f"Error: flight {number} not found"
    record = data["flights"][number]
    if flight["date"] not in record["dates"]:
        return f"Error: flight {number} not found on date {flight['date']}"
    day = record["dates"][flight["date"]]
    if day["status"] != "available":
        return f"Error: flight {number} not available on date {flight['date']}"
    if day["available_seats"][cabin] < len(passengers):
        return f"Error: not enough seats on flight {number}"
    flight["price"] = day["prices"][cabin]
    flight["origin"] = record["origin"]
    flight["destination"] = record["destination"]
    return None


def _payment_problem(data: Database, reservation: Record, payment_id: Any, total: Any) -> str | None:
    methods = data["users"][reservation["user_id"]]["payment_methods"]
    if payment_id not in methods:
        return "Error: payment method not found"
    if methods[payment_id]["source"] == "certificate":
        return "Error: certificate cannot be used to update reservation"
    if methods[payment_id]["source"] == "gift_card" and methods[payment_id]["amount"] < total:
        return "Error: gift card balance is not enough"
    return None


def _charge(data: Database, reservation: Record, payment_id: str, total: Any) -> None:
    """Subtract ``total`` from a gift card (a negative total adds to it); other methods have no balance."""
    if data["users"][reservation["user_id"]]["payment_methods"][payment_id]["source"] == "gift_card":
        data["users"].edit(reservation["user_id"])["payment_methods"][payment_id]["amount"] -= total


TOOLS = (
    Tool(book_reservation),
    CALCULATE,
    Tool(cancel_reservation),
    Tool(get_reservation_details),
    Tool(get_user_details),
    Tool(list_all_airports),
    Tool(search_direct_flight),
    Tool(search_onestop_flight),
    Tool(send_certificate),
    THINK,
    TRANSFER,
    Tool(update_reservation_baggages),
    Tool(update_reservation_flights),
    Tool(update_reservation_passengers),
)
