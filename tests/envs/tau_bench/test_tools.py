"""Unusual behavior of the original tools that is kept on purpose, on small records; needs no official data."""

import json
from typing import Any

import pytest

from hero_envs.tau_bench import airline_tools, retail_tools
from hero_envs.tau_bench.database import BaseData, Database
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.prompts import POCKET_POLICY, RETAIL_SCHEMAS
from hero_envs.tau_bench.reward import score
from hero_envs.tau_bench.tasks import Action, Task

RETAIL = {tool.name: tool for tool in retail_tools.TOOLS}
AIRLINE = {tool.name: tool for tool in airline_tools.TOOLS}


def shop() -> Database:
    options = {"a": "red", "b": "blue", "c": "green"}
    prices = {"a": 10.1, "b": 10.3, "c": 10.4}
    variants = {
        k: {"item_id": k, "options": {"color": v}, "available": True, "price": prices[k]} for k, v in options.items()
    }
    item = {"name": "Mug", "product_id": "p", "price": 10.1, "options": {"color": "red"}}
    order = {
        "user_id": "ann",
        "address": {},
        "items": [{**item, "item_id": "a"}, {**item, "item_id": "b", "price": 10.3}],
        "fulfillments": [],
        "status": "pending",
        "payment_history": [{"transaction_type": "payment", "amount": 20.4, "payment_method_id": "gift_card_1"}],
    }
    user = {
        "name": {"first_name": "Ann", "last_name": "Lee"},
        "address": {"zip": "1"},
        "email": "Ann@x.org",
        "payment_methods": {
            "gift_card_1": {"source": "gift_card", "balance": 50, "id": "gift_card_1"},
            "paypal_1": {"source": "paypal", "id": "paypal_1"},
        },
        "orders": ["#W1", "#W2"],
    }
    orders = {"#W1": {"order_id": "#W1", **order}, "#W2": {"order_id": "#W2", **order, "status": "delivered"}}
    products = {"p": {"name": "Mug", "product_id": "p", "variants": variants}}
    return Database(BaseData({"orders": orders, "products": products, "users": {"ann": user}}))


def flight(number: str, route: str, times: str, **days: dict[str, Any]) -> dict[str, Any]:
    departure, _, arrival = times.partition(" ")
    return {
        "flight_number": number,
        "origin": route[:3],
        "destination": route[3:],
        "scheduled_departure_time_est": departure,
        "scheduled_arrival_time_est": arrival,
        "dates": {f"2024-05-{day[1:]}": value for day, value in days.items()},
    }


def day(price: int, seats: int = 5) -> dict[str, Any]:
    return {"status": "available", "available_seats": {"economy": seats}, "prices": {"economy": price}}


def airline() -> Database:
    flights = {
        "F1": flight("F1", "JFKORD", "22:00:00 01:00:00+1", d08=day(1), d20=day(100)),
        "F2": flight("F2", "ORDSEA", "06:00:00 09:00:00", d08=day(2), d09=day(3), d20=day(200), d21=day(300)),
    }
    user = {
        "name": {"first_name": "Mia", "last_name": "Li"},
        "email": "m@x.org",
        "payment_methods": {
            "certificate_1": {"source": "certificate", "amount": 500, "id": "certificate_1"},
            "gift_card_1": {"source": "gift_card", "amount": 300, "id": "gift_card_1"},
        },
        "reservations": [],
    }
    return Database(BaseData({"flights": flights, "reservations": {}, "users": {"mia": user}}))


def booking(**changes: Any) -> dict[str, Any]:
    return {
        "user_id": "mia",
        "origin": "JFK",
        "destination": "ORD",
        "flight_type": "one_way",
        "cabin": "economy",
        "flights": [{"flight_number": "F1", "date": "2024-05-20"}],
        "passengers": [{"first_name": "Mia"}, {"first_name": "Bo"}],
        "payment_methods": [
            {"payment_id": "certificate_1", "amount": 200},
            {"payment_id": "gift_card_1", "amount": 60},
        ],
        "total_baggages": 0,
        "nonfree_baggages": 0,
        "insurance": "yes",
        **changes,
    }


def test_a_cancelled_order_refunds_the_gift_card_and_notes_the_reason_last() -> None:
    data = shop()
    order = json.loads(RETAIL["cancel_pending_order"].call(data, {"order_id": "#W1", "reason": "no longer needed"}))
    assert list(order)[-1] == "cancel_reason"
    assert order["status"] == "cancelled"
    assert data["users"]["ann"]["payment_methods"]["gift_card_1"]["balance"] == 70.4


def test_the_reasons_that_the_tool_accepts_are_those_of_its_schema_and_of_the_policy() -> None:
    schema = next(s["function"] for s in RETAIL_SCHEMAS if s["function"]["name"] == "cancel_pending_order")
    reasons = schema["parameters"]["properties"]["reason"]["enum"]
    assert reasons == ["no longer needed", "ordered by mistake"]
    assert " or ".join(f'"{reason}"' for reason in reasons) in POCKET_POLICY
    for reason in (*reasons, "too late", []):
        answer = retail_tools.cancel_pending_order(shop(), "#W1", reason)
        assert (answer == "Error: invalid reason") == (reason not in reasons)


def test_modified_items_are_swapped_one_after_the_other_and_the_difference_is_not_rounded() -> None:
    data = shop()
    call = {"order_id": "#W1", "item_ids": ["a", "b"], "new_item_ids": ["b", "c"], "payment_method_id": "paypal_1"}
    order = json.loads(RETAIL["modify_pending_order_items"].call(data, call))
    # The first swap makes a second "b" at the front, and the second swap hits that one.
    assert [item["item_id"] for item in order["items"]] == ["c", "b"]
    assert order["payment_history"][-1]["amount"] == (10.3 - 10.1) + (10.4 - 10.3)
    assert order["payment_history"][-1]["amount"] != 0.3
    assert order["status"] == "pending (item modified)"


def test_an_exchange_sorts_both_lists_apart_and_rounds() -> None:
    data = shop()
    call = {"order_id": "#W2", "item_ids": ["b", "a"], "new_item_ids": ["c", "b"], "payment_method_id": "paypal_1"}
    order = json.loads(RETAIL["exchange_delivered_order_items"].call(data, call))
    assert (order["exchange_items"], order["exchange_new_items"]) == (["a", "b"], ["b", "c"])
    assert order["exchange_price_difference"] == 0.3


def test_a_return_goes_to_the_original_method_or_a_gift_card() -> None:
    call = {"order_id": "#W2", "item_ids": ["a"], "payment_method_id": "paypal_1"}
    answer = RETAIL["return_delivered_order_items"].call(shop(), call)
    assert answer == "Error: payment method should be either the original payment method or a gift card"


@pytest.mark.parametrize("item", [None, 3, 1.5, True, "", ["a"], {"a": 1}, [None]])
def test_anything_in_a_list_of_items_that_is_no_item_is_not_found_and_changes_nothing(item: Any) -> None:
    data = shop()
    more = {"new_item_ids": ["c"], "payment_method_id": "paypal_1"}
    asked: list[tuple[str, dict[str, Any], str]] = [
        (
            "return_delivered_order_items",
            {"order_id": "#W2", "item_ids": ["a", item], "payment_method_id": "gift_card_1"},
            "some item",
        ),
        ("exchange_delivered_order_items", {"order_id": "#W2", "item_ids": [item], **more}, str(item)),
        ("modify_pending_order_items", {"order_id": "#W1", "item_ids": [item], **more}, str(item)),
    ]
    for name, arguments, what in asked:
        assert RETAIL[name].call(data, arguments) == f"Error: {what} not found"
    for name, order in (("exchange_delivered_order_items", "#W2"), ("modify_pending_order_items", "#W1")):
        arguments = {"order_id": order, "item_ids": ["a"], "new_item_ids": [item], "payment_method_id": "paypal_1"}
        answer = RETAIL[name].call(data, arguments)
        if isinstance(item, list | dict):
            assert f"unhashable type: '{type(item).__name__}'" in answer
        else:
            assert answer == f"Error: new item {item} not found or available"
    assert data.delta() == {}


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        (None, "'NoneType' object is not iterable"),
        (5, "'int' object is not iterable"),
        (True, "'bool' object is not iterable"),
        ({"a": 1}, "'dict' object has no attribute 'count'"),
    ],
)
def test_what_is_no_list_of_items_fails_in_pythons_words(items: Any, answer: str) -> None:
    data = shop()
    arguments = {"order_id": "#W2", "item_ids": items, "payment_method_id": "gift_card_1"}
    assert RETAIL["return_delivered_order_items"].call(data, arguments) == f"Error: {answer}"
    assert data.delta() == {}


def test_a_second_change_of_payment_is_refused() -> None:
    data, call = shop(), {"order_id": "#W1", "payment_method_id": "paypal_1"}
    assert RETAIL["modify_pending_order_payment"].call(data, call).startswith("{")
    answer = RETAIL["modify_pending_order_payment"].call(data, {**call, "payment_method_id": "gift_card_1"})
    assert answer == "Error: there should be exactly one payment for a pending order"


def test_a_user_is_found_by_the_zip_code_of_today() -> None:
    data, who = shop(), {"first_name": "ANN", "last_name": "lee"}
    address = {key: "2" for key in ("address1", "address2", "city", "state", "country", "zip")}
    assert RETAIL["find_user_id_by_name_zip"].call(data, {**who, "zip": "1"}) == "ann"
    RETAIL["modify_user_address"].call(data, {"user_id": "ann", **address})
    assert RETAIL["find_user_id_by_name_zip"].call(data, {**who, "zip": "1"}) == "Error: user not found"
    assert RETAIL["find_user_id_by_name_zip"].call(data, {**who, "zip": "2"}) == "ann"


def test_a_booking_deletes_the_certificate_keeps_the_seats_and_gets_the_first_free_id() -> None:
    data = airline()
    # 2 x 100 for the flight + 2 x 30 for the insurance
    first = json.loads(AIRLINE["book_reservation"].call(data, booking()))
    assert first["reservation_id"] == "HATHAT"
    methods = data["users"]["mia"]["payment_methods"]
    assert "certificate_1" not in methods
    assert methods["gift_card_1"]["amount"] == 240
    assert data["flights"]["F1"]["dates"]["2024-05-20"]["available_seats"]["economy"] == 5
    second = booking(insurance="no", payment_methods=[{"payment_id": "gift_card_1", "amount": 200}])
    assert json.loads(AIRLINE["book_reservation"].call(data, second))["reservation_id"] == "HATHAU"


def test_a_certificate_listed_twice_fails_late_and_stays_deleted() -> None:
    data = airline()
    twice = [{"payment_id": "certificate_1", "amount": 130}, {"payment_id": "certificate_1", "amount": 130}]
    assert AIRLINE["book_reservation"].call(data, booking(payment_methods=twice)) == "Error: 'certificate_1'"
    assert "certificate_1" not in data["users"]["mia"]["payment_methods"]
    assert len(data["reservations"]) == 0


@pytest.mark.parametrize(
    ("item", "answer"),
    [
        (None, "'NoneType' object is not subscriptable"),
        (3, "'int' object is not subscriptable"),
        (True, "'bool' object is not subscriptable"),
        ("F1", "string indices must be integers"),
        (["F1"], "list indices must be integers or slices, not str"),
    ],
)
def test_anything_in_a_list_of_flights_or_payments_that_is_none_fails_in_pythons_words(item: Any, answer: str) -> None:
    data = airline()
    for name in ("flights", "payment_methods"):
        assert AIRLINE["book_reservation"].call(data, booking(**{name: [item]})).startswith(f"Error: {answer}")
    assert AIRLINE["book_reservation"].call(data, booking(flights=[{}])) == "Error: 'flight_number'"
    assert data.delta() == {}
    assert json.loads(AIRLINE["book_reservation"].call(data, booking()))["reservation_id"] == "HATHAT"
    before = data.delta()
    change = {"reservation_id": "HATHAT", "cabin": "economy", "flights": [item], "payment_id": "gift_card_1"}
    assert AIRLINE["update_reservation_flights"].call(data, change).startswith(f"Error: {answer}")
    assert data.delta() == before


def test_an_unknown_cabin_fails_as_a_missing_key() -> None:
    assert AIRLINE["book_reservation"].call(airline(), booking(cabin="first")) == "Error: 'first'"


def test_the_day_after_is_not_zero_padded_so_early_days_never_connect() -> None:
    search = {"origin": "JFK", "destination": "SEA"}
    tool = AIRLINE["search_onestop_flight"]
    assert json.loads(tool.call(airline(), {**search, "date": "2024-05-08"})) == []
    flights = json.loads(tool.call(airline(), {**search, "date": "2024-05-20"}))
    assert flights[0][1]["date"] == "2024-05-21"
    assert flights[0][1]["prices"] == {"economy": 200}  # of the 20th: the first leg's day


def test_a_flight_change_leaves_the_cabin_and_a_second_cancellation_doubles_the_history() -> None:
    data = airline()
    AIRLINE["book_reservation"].call(data, booking())
    change = {
        "reservation_id": "HATHAT",
        "cabin": "economy",
        "flights": [{"flight_number": "F2", "date": "2024-05-20"}],
        "payment_id": "gift_card_1",
    }
    changed = json.loads(AIRLINE["update_reservation_flights"].call(data, change))
    assert changed["payment_history"][-1] == {"payment_id": "gift_card_1", "amount": 200}
    assert data["users"]["mia"]["payment_methods"]["gift_card_1"]["amount"] == 40
    for length in (6, 12):
        cancelled = json.loads(AIRLINE["cancel_reservation"].call(data, {"reservation_id": "HATHAT"}))
        assert len(cancelled["payment_history"]) == length


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({}, "missing 2 required positional arguments: 'order_id' and 'reason'"),
        ({"reason": 1}, "missing 1 required positional argument: 'order_id'"),
        ({"x": 1, "y": 2}, "got an unexpected keyword argument 'x'"),
    ],
)
def test_wrong_arguments_are_answered_in_pythons_words(arguments: dict[str, Any], answer: str) -> None:
    assert RETAIL["cancel_pending_order"].call(shop(), arguments) == f"Error: CancelPendingOrder.invoke() {answer}"


def test_three_missing_arguments_are_listed_with_a_comma_before_the_last() -> None:
    answer = RETAIL["find_user_id_by_name_zip"].call(shop(), {})
    assert answer.endswith("missing 3 required positional arguments: 'first_name', 'last_name', and 'zip'")


@pytest.mark.parametrize(
    ("replies", "reward"),
    [
        (["The total is $1,234.56 OK?"], 1.0),
        (["it is 1234.56", "and ok"], 1.0),
        (["The total is 1234.56"], 0.0),
        ([], 0.0),
    ],
)
def test_outputs_are_searched_in_replies_without_commas_and_case(replies: list[str], reward: float) -> None:
    data = shop()
    task = Task("test-0", "ann", "", (), ("1234.56", "OK"))
    domain = Domain("retail", data.base, retail_tools.TOOLS, (), "", {"test": (task,)})
    log = [Action("respond", {"content": text}) for text in replies]
    log.append(Action("think", {"thought": "1234.56 OK"}))
    report = score(domain, task, data, log)
    assert report["reward"] == reward
    assert set(report["info"]) == {"r_outputs", "outputs"}


def test_databases_are_compared_as_in_the_benchmark() -> None:
    for value, other, equal in ((5, 5.0, False), ({}, [], True), (True, 1, False), ("1", 1, False)):
        left, right = shop(), shop()
        left["users"].edit("ann")["x"] = value
        right["users"].edit("ann")["x"] = other
        assert (left.delta() == right.delta()) is equal, (value, other)
        assert (left.official_hash() == right.official_hash()) is equal, (value, other)


def test_a_change_that_is_taken_back_is_no_change() -> None:
    data = shop()
    data["users"].edit("ann")["email"] = "other"
    assert data.delta() != {}
    data["users"].edit("ann")["email"] = "Ann@x.org"
    assert data.delta() == {}
