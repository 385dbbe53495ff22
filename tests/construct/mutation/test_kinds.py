"""Each kind of bug can be planted in some program, changes it, and makes an assert fail when run by plain `exec`."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflectioncoder.construct.mutation.edits import Edit, Mutation, SourceTree, apply_edits
from reflectioncoder.construct.mutation.kinds import BUG_KINDS, find_mutations
from reflectioncoder.construct.mutation.wordings import WORDING

# kind: (solution, an assert that holds for it and fails for at least one mutant of the kind)
SNIPPETS = {
    "boundary": ("def f(n):\n    return n >= 18\n", "assert f(18)"),
    "comparison": ("def f(a, b):\n    return a if a > b else b\n", "assert f(1, 2) == 2"),
    "inverted_test": ("def f(x, xs):\n    return x in xs\n", "assert f(1, [1])"),
    "operator": ("def f(a, b):\n    return a + b\n", "assert f(1, 2) == 3"),
    "division": ("def f(a):\n    return a // 2\n", "assert f(3) == 1"),
    "swapped_arguments": ("def f(a, b):\n    return divmod(a, b)\n", "assert f(7, 2) == (3, 1)"),
    "swapped_operands": ("def f(a, b):\n    return a - b\n", "assert f(3, 1) == 2"),
    "slice_bound": ("def f(xs):\n    return xs[1:]\n", "assert f([1, 2]) == [2]"),
    "index": ("def f(xs):\n    return xs[-1]\n", "assert f([1, 2]) == 2"),
    "wrong_key": ('def f(d):\n    return d["name"]\n', 'assert f({"name": 1}) == 1'),
    "misspelt_name": ("def f(total):\n    return total * 2\n", "assert f(2) == 4"),
    "wrong_method": ("def f(s):\n    return s.upper()\n", 'assert f("a") == "A"'),
    "wrong_attribute": (
        "class C:\n    def __init__(self):\n        self.items = [1]\n\n    def f(self):\n        return self.items\n",
        "assert C().f() == [1]",
    ),
    "missing_conversion": ("def f(n):\n    return '#' + str(n)\n", "assert f(1) == '#1'"),
    "missing_call": ("def f(n):\n    return abs(n)\n", "assert f(-1) == 1"),
    "negated_condition": ("def f(s):\n    if s.isdigit():\n        return 1\n    return 0\n", "assert f('1') == 1"),
    "and_or": ("def f(a, b):\n    return a > 0 and b > 0\n", "assert not f(1, 0)"),
    "min_max": ("def f(xs):\n    return max(xs)\n", "assert f([1, 2]) == 2"),
    "any_all": ("def f(xs):\n    return any(xs)\n", "assert f([0, 1])"),
    "range_bound": ("def f(n):\n    return list(range(1, n + 1))\n", "assert f(2) == [1, 2]"),
    "constant": ("def f(n):\n    return n * 2\n", "assert f(2) == 4"),
    "truth_value": ("def f():\n    return True\n", "assert f()"),
    "separator": ("def f(xs):\n    return ', '.join(xs)\n", "assert f(['a', 'b']) == 'a, b'"),
    "initial_value": ("def f(xs):\n    t = 0\n    for x in xs:\n        t += x\n    return t\n", "assert f([1]) == 1"),
    "missing_edge_case": ("def f(xs):\n    if not xs:\n        return 0\n    return xs[0]\n", "assert f([]) == 0"),
    "lost_return": ("def f(n):\n    m = n\n    return m\n", "assert f(1) == 1"),
    "mutable_default": (
        "def f(n):\n    xs = []\n    xs.append(n)\n    return xs\n",
        "assert f(1) == [1] and f(2) == [2]",
    ),
    "premature_return": (
        "def f(xs):\n    t = 0\n    for x in xs:\n        t += x\n    return t\n",
        "assert f([1, 2]) == 3",
    ),
    "branch_removed": (
        "def f(n):\n    r = 0\n    if n > 0:\n        r = 1\n    else:\n        r = -1\n    return r\n",
        "assert f(-5) == -1",
    ),
    "wrong_return": ("def f(a):\n    b = a + 1\n    return b\n", "assert f(1) == 2"),
    "plain_assignment": (
        "def f(xs):\n    t = 0\n    for x in xs:\n        t += x\n    return t\n",
        "assert f([1, 2]) == 3",
    ),
    "append_extend": ("def f(a, b):\n    a.append(b)\n    return a\n", "assert f([], [1]) == [[1]]"),
    "break_continue": (
        "def f(xs):\n    n = 0\n    for x in xs:\n        if x < 0:\n            break\n        n += 1\n    return n\n",
        "assert f([1, -1, 1]) == 1",
    ),
    "missing_step": (
        "def f(xs):\n    t = n = 0\n    for x in xs:\n        t += x\n        n += 1\n    return t, n\n",
        "assert f([5]) == (5, 1)",
    ),
    "reset_in_loop": (
        "def f(xs):\n    t = 0\n    for x in xs:\n        t += x\n    return t\n",
        "assert f([1, 2]) == 3",
    ),
    "wrong_variable": ("def f(a, b):\n    c = a * 10\n    return c + b\n", "assert f(1, 2) == 12"),
    "sort_order": ("def f(xs):\n    return sorted(xs)\n", "assert f([1, 2]) == [1, 2]"),
    "missing_sort_key": ("def f(xs):\n    return sorted(xs, key=len)\n", "assert f(['bb', 'c']) == ['c', 'bb']"),
    "missing_normalisation": ("def f(s):\n    return s.strip()\n", "assert f(' a') == 'a'"),
    "missing_default": ("def f(d, k):\n    return d.get(k, 0)\n", "assert f({}, 1) == 0"),
    "missing_items": ("def f(d):\n    return [k + v for k, v in d.items()]\n", "assert f({1: 2}) == [3]"),
    "in_place_result": ("def f(xs):\n    return sorted(xs)\n", "assert f([2, 1]) == [1, 2]"),
    "missing_filter": ("def f(xs):\n    return [x for x in xs if x > 0]\n", "assert f([1, -1]) == [1]"),
}


def passes(program: str) -> bool:
    """Whether a harmless snippet runs without an exception in this process, independent of the interpreter."""
    try:
        exec(program, {"__name__": "snippet"})
    except Exception:
        return False
    return True


def test_there_are_at_least_25_kinds_and_each_has_a_snippet_and_wording() -> None:
    assert len(BUG_KINDS) >= 25
    assert set(SNIPPETS) == set(BUG_KINDS) == set(WORDING)


@pytest.mark.parametrize("kind", list(SNIPPETS))
def test_each_kind_makes_a_mutant_that_fails(kind: str) -> None:
    solution, test = SNIPPETS[kind]
    assert passes(solution + test)
    mutants = [apply_edits(solution, [m]) for m in find_mutations(solution, {kind: BUG_KINDS[kind]})]
    assert mutants
    assert all(ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(solution)) for mutant in mutants)
    assert not all(passes(mutant + test) for mutant in mutants)


@pytest.mark.parametrize("kind", list(SNIPPETS))
def test_each_wording_can_be_filled(kind: str) -> None:
    for mutation in find_mutations(SNIPPETS[kind][0], {kind: BUG_KINDS[kind]}):
        words = {**mutation.words, "bad": mutation.bad, "good": mutation.good, "line": "", "fixed": "", "def": "f"}
        for template in (*WORDING[kind][0], *WORDING[kind][1]):
            assert "{" not in template.format_map(dict.fromkeys(words, "x"))


def test_a_mutation_leaves_comments_and_layout_alone() -> None:
    solution = "def f( xs ):  # über\n    é = 'ü'; return  len( xs ) <  3  # three\n"
    (mutation,) = find_mutations(solution, {"boundary": BUG_KINDS["boundary"]})
    assert apply_edits(solution, [mutation]) == solution.replace("<", "<=")
    assert (mutation.line, mutation.bad, mutation.good) == (2, "len( xs ) <= 3", "len( xs ) < 3")


def test_docstrings_annotations_and_module_level_are_not_touched() -> None:
    solution = 'LIMIT = 3\n\n\ndef f(n: "int") -> "int":\n    """a < b"""\n    return n\n'
    assert all(m.line == 6 for m in find_mutations(solution))


def test_premature_return_indents_the_return_into_the_loop() -> None:
    solution = SNIPPETS["premature_return"][0]
    (mutation,) = find_mutations(solution, {"p": BUG_KINDS["premature_return"]})
    assert apply_edits(solution, [mutation]) == solution.replace("    return t", "        return t")


def test_mutable_default_moves_the_container_into_the_signature() -> None:
    solution = SNIPPETS["mutable_default"][0]
    (mutation,) = find_mutations(solution, {"m": BUG_KINDS["mutable_default"]})
    assert apply_edits(solution, [mutation]) == "def f(n, xs=[]):\n    xs.append(n)\n    return xs\n"


def test_overlapping_edits_are_refused() -> None:
    a, b = (Mutation("constant", (Edit(start, start + 2, "x"),), "", "", 1) for start in (0, 1))
    with pytest.raises(ValueError, match="overlap"):
        apply_edits("abcd", [a, b])


@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 63))
def test_applying_some_edits_changes_just_those_pieces(pieces: list[str], chosen: int) -> None:
    text, expected, edits = "", "", []
    for i, piece in enumerate(pieces):
        if chosen >> i & 1:
            edits.append(Mutation("constant", (Edit(len(text), len(text) + len(piece), f"<{i}>"),), "", "", 1))
        expected += f"<{i}>" if chosen >> i & 1 else piece
        text += piece
    assert apply_edits(text, edits[::-1]) == expected


def test_positions_count_characters_not_bytes() -> None:
    source = SourceTree("def f():\n    return 'äöü' + x\n")
    name = next(node for node in source.nodes if isinstance(node, ast.Name))
    assert source.of(name) == "x"
