"""Checks of our own for schemathesis: what fits the document's types is never called ill-formed,
and no refusal shows a regex or a type of Python.

Values that fit and still can't be (a datacenter that does not exist, a price for the past) are
refused as INVALID_VALUE; VALIDATION_FAILED for them would mean that the document is wrong.
"""

import re

import schemathesis
from schemathesis import GenerationMode

RAW_WORDS = re.compile(r"regex|`(?:str|int|float|bool|array|object|null|datetime)\b", re.ASCII)


@schemathesis.check
def well_formed_is_never_called_ill_formed(ctx, response, case):
    mode = case.meta.generation.mode if case.meta else None
    if mode is not GenerationMode.POSITIVE or response.status_code != 422:
        return
    told = response.json()
    if told["code"] == "VALIDATION_FAILED":
        raise AssertionError(f"fits the document, refused as {told['detail']}")


@schemathesis.check
def refusals_are_told_in_words(ctx, response, case):
    if 400 <= response.status_code < 500 and RAW_WORDS.search(response.json()["detail"]):
        raise AssertionError(f"shows what only programmers read: {response.json()['detail']}")
