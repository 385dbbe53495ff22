"""Answers in the languages of MultiPL-E: where they end, which head counts, and what they need below the function."""

# ruff: noqa: E501 (programs on one line each read better)
import re

import pytest
from polyglot import CASES
from polyglot import SHORT as LIMITS

from reflectioncoder.syntax.answers.dialects import definition_of, dialect_of
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.multipl_e import languages
from reflectioncoder.tasks.multipl_e.answers import assemble_program, function_in
from reflectioncoder.tasks.multipl_e.task import MultiPLE

pytestmark = pytest.mark.slow

JAVA = CASES["java"]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ("        return x;\n    }\n}\n", "        return x;"),
        ("        return x;\n    }", "        return x;"),
        ("        return x;", "        return x;"),
        (
            "        if (a) {\n        }\n        return x;\n    }\n    void other() {}\n",
            "        if (a) {\n        }\n        return x;",
        ),
        ("```java\n        return x;\n    }\n```\nDone.\n    }\n", "        return x;"),
        (JAVA.prompt + "        return x;\r\n    }\r\n}", "        return x;"),
        ("", ""),
    ],
)
def test_an_answer_is_cut_to_the_body_before_the_tests(answer, body):
    found = assemble_program(answer, JAVA.prompt, list(JAVA.stops), "java")
    assert found.rstrip("\n") == (JAVA.prompt + body).rstrip("\n")
    assert assemble_program(found, JAVA.prompt, list(JAVA.stops), "java").rstrip("\n") == found.rstrip("\n")


def test_what_follows_a_body_is_no_answer():
    """A later fence or function head is an example of use, not part of the answer."""
    body, prompt, stops = "        return x;", JAVA.prompt, list(JAVA.stops)
    for more in (
        "```\nUsage:\n```java\nevens(null);\n```\n",
        f"    // again\n{prompt}        return null;\n    }}\n}}\n",
    ):
        assert assemble_program(f"{body}\n    }}\n{more}", prompt, stops, "java").rstrip() == prompt + body
        assert assemble_program(f"{body}\n    }}\n}}\n{more}", prompt, stops, "java").rstrip() == prompt + body


def test_the_prompt_s_own_lines_are_not_said_twice(data):
    for key in languages.LANGUAGES:
        for row in MultiPLE(key, TaskOptions(data=str(data))).problems.values():
            prompt, stops = row["prompt"], row["stop_tokens"]
            closed = f"{stops[0]}\n}}" if all("}" in stop for stop in stops) else f"}}\n{stops[0]}\n"
            again = assemble_program(f"{prompt}    body;\n{closed}", prompt, stops, key)
            assert again.rstrip("}\n") == f"{prompt}    body;"
            assert assemble_program("    body;", prompt, stops, key).rstrip() == f"{prompt}    body;"


def test_a_whole_program_keeps_what_stands_before_the_function():
    program = "import java.util.*;\nclass Problem {\n    static int help() {\n        return 1;\n    }\n" + JAVA.prompt
    found = assemble_program(program + "        return x;\n    }\n}\n", JAVA.prompt, list(JAVA.stops), "java", True)
    assert found == program + "        return x;"


# right answers with code below the function, by language; BELOW[key] holds (answer, ...)
BELOW = {
    "java": [
        "class Problem {\n    public static Pair<Long, Long> evens(ArrayList<Long> l) {\n        long even = count(l);\n"
        "        return Pair.with(even, l.size() - even);\n    }\n\n    private static long count(List<Long> l) {\n"
        "        long n = 0;\n        for (long x : l) {\n            if (Parity.even(x)) n++;\n        }\n        return n;\n"
        "    }\n\n    public static void main(String[] args) {\n        System.out.println(evens(null));\n    }\n}\n\n"
        "class Parity {\n    static boolean even(long x) { return x % 2 == 0; }\n}\n",
        "public static Pair<Long, Long> evens(ArrayList<Long> items) {\n    long even = count(items);\n"
        "    return Pair.with(even, items.size() - even);\n}\n\nprivate static long count(ArrayList<Long> l) {\n"
        "    return l.stream().filter(x -> x % 2 == 0).count();\n}\n",
        "        long even = count(l);\n        return Pair.with(even, l.size() - even);\n    }\n\n"
        "    private static long count(ArrayList<Long> l) {\n        return l.stream().filter(x -> x % 2 == 0).count();\n"
        "    }\n}\n",
    ],
    "cpp": [
        "#include <vector>\nbool even(long x);\nlong evens(const std::vector<long>& values) {\n    long n = 0;\n"
        "    for (long x : values) if (even(x)) n++;\n    return n;\n}\n\nbool even(long x) {\n    return x % 2 == 0;\n}\n\n"
        "int main() {\n    return evens({1});\n}\n",
        "class Solution {\npublic:\n    static bool even(long x) { return x % 2 == 0; }\n};\n\nlong evens(std::vector<long> l) {\n"
        "    return std::count_if(l.begin(), l.end(), Solution::even);\n}\n",
    ],
    "js": [
        "function evens(list) {\n  return list.filter(isEven).length;\n}\n\n// Helper\nfunction isEven(x) {\n  return x % TWO === 0;\n"
        "}\n\nconst TWO = 2;\n\nconsole.log(evens([1, 2]));\nmodule.exports = { evens };\n",
        "const evens = (l) => {\n  return l.filter(isEven).length;\n};\n\nfunction isEven(x) {\n  return x % 2 === 0;\n}\n",
        "const evens = l => l.filter(x => x % 2 === 0).length;\n",
        "const evens = function (l) {\n  return l.filter((x) => x % 2 === 0).length;\n};\n",
        "  return l.filter(isEven).length;\n}\n\nfunction isEven(x) {\n  return x % 2 === 0;\n}\n",
    ],
    "ts": [
        "function evens(list: Array<number>): number {\n  return list.filter(isEven).length;\n}\n\n/* Helper */\n"
        "function isEven(x: number): boolean {\n  return x % 2 === 0;\n}\n\nconsole.log(evens([1, 2]));\n",
        "const evens = (l: number[]): number => l.filter((x) => x % 2 === 0).length;\n",
    ],
    "php": [
        "<?php\nfunction evens(array $items): int {\n    return count(array_filter($items, 'is_even'));\n}\n\n"
        "function is_even($x) {\n    return $x % 2 == 0; # as it's said\n}\n\necho evens([1, 2]);\n?>\n",
    ],
    "rs": [
        "fn evens(values: Vec<isize>) -> isize {\n    values.iter().filter(|x| is_even(**x)).count() as isize\n}\n\n"
        "fn is_even(x: isize) -> bool {\n    x % 2 == 0\n}\n\nfn main() {\n    println!(\"{}\", evens(vec![2]));\n}\n\n"
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn one() {\n        assert_eq!(evens(vec![2]), 1);\n    }\n}\n",
    ],
    "cs": [
        "using System.Collections.Generic;\n\npublic class Solution {\n    public static List<long> Evens(List<long> items) {\n"
        "        var found = new List<long>();\n        foreach (var x in items) if (IsEven(x)) found.Add(x);\n        return found;\n"
        "    }\n\n    private static bool IsEven(long x) {\n        return x % 2 == 0;\n    }\n\n"
        "    public static void Main(string[] args) {\n    }\n}\n",
    ],
    "sh": [
        '#!/bin/bash\nevens() {\n    local n=0\n    for x in $1; do\n        is_even "$x" && n=$((n + 1))\n    done\n    echo "$n"\n}\n\n'
        'is_even() {\n    (( $1 % TWO == 0 ))\n}\n\nTWO=2\n\nevens "$@"\n',
        '    local n=0\n    for x in $1; do\n        if is_even "$x"; then n=$((n + 1)); fi\n    done\n    echo "$n"\n}\n\n'
        "is_even() {\n    (( $1 % 2 == 0 ))\n}\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "number"), [(key, n) for key, answers in BELOW.items() for n in range(len(answers))])
def test_what_the_function_needs_below_it_is_kept(key, number, task):
    one, interpreter = task(key)
    answer = BELOW[key][number]
    fence = one.language.fence
    assert one.check("evens", answer, interpreter, LIMITS).error == ""
    if number == 0:
        said = f"Here is it:\n```{fence}\n{answer}```\nUse it:\n```{fence}\n// no\n```\n"
        assert one.check("evens", said, interpreter, LIMITS).error == ""


@pytest.mark.parametrize("key", BELOW)
def test_an_answer_s_own_head_is_the_only_one(key):
    case = CASES[key]
    name = function_in(case.prompt)
    for answer in (*BELOW[key], case.right, case.prompt + case.right):
        program = assemble_program(answer, case.prompt, list(case.stops), key)
        text = program
        heads = 0
        while place := definition_of(text, name, dialect_of(key).kind):
            heads, text = heads + 1, text[place[1] :]
        assert heads == 1, program


def test_the_function_of_every_prompt_is_known(data):
    for key in languages.LANGUAGES:
        for row in MultiPLE(key, TaskOptions(data=str(data))).problems.values():
            name = function_in(row["prompt"])
            assert name and definition_of(row["prompt"], name, dialect_of(key).kind), row["prompt"]
            assert re.search(rf"\b{name}\b", row["tests"])
