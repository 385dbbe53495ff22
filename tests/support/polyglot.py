"""Data for the tests of MultiPL-E.

`CASES` has one problem of our own per language in MultiPL-E's format, with a right answer and answers that are wrong by
construction. `SERVED` has right answers in the form that chat models use. `SOLUTIONS` has our answers to some problems
of the real set, by name.
"""

# ruff: noqa: E501 (programs on one line each read better)
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from reflectioncoder.interpreter.interpreter import Limits
from reflectioncoder.tasks.multipl_e import languages

SHORT = Limits(2.0, 1024, 1_000_000)


@dataclass(frozen=True)
class Case:
    """One problem and answers to it. The problem is to count the even items of a list, or to return them.

    Args:
        prompt: ends with the head of the function.
        tests: the tests, as MultiPL-E writes them for the language.
        stops: strings that end the body.
        right: a body that passes.
        wrong: bodies that must fail, by the kind of error; the endless one is `loop`.
    """

    prompt: str
    tests: str
    stops: tuple[str, ...]
    right: str
    wrong: dict[str, str]


def need(key: str) -> None:
    """Skip the test if the toolchain of a language is not installed."""
    if languages.find(key).missing:
        pytest.skip(f"{languages.LANGUAGES[key].name}: {languages.find(key).reason}")


def write(folder: Path, key: str, cases: dict[str, Case]) -> Path:
    """Write cases as the file of a language into a folder, and return the folder."""
    rows = [
        {"name": name, "language": key, "prompt": case.prompt, "tests": case.tests, "stop_tokens": list(case.stops)}
        for name, case in cases.items()
    ]
    (folder / f"humaneval-{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


CASES = {
    "cpp": Case(
        "#include<assert.h>\n#include<bits/stdc++.h>\n// How many items are even\nlong evens(std::vector<long> l) {\n",
        "}\nint main() {\n    auto candidate = evens;\n"
        "    assert(candidate((std::vector<long>())) == (0));\n"
        "    assert(candidate((std::vector<long>({(long)1, (long)2, (long)4}))) == (2));\n}\n",
        ("\n}",),
        "    return std::count_if(l.begin(), l.end(), [](long x) { return x % 2 == 0; });",
        {
            "value": "    return 0;",
            "compilation": '    return "text";',
            "loop": '    for (;;) { asm volatile(""); }',
            "leaves": "    exit(0);",
            "leaves at once": "    return 0;\n}\nint early = (exit(0), 0);\nint other() { return 0;",
            "prints": '    std::cout << "OK\\npassed\\n"; exit(0);',
            "no function": "",
            "crash": "    volatile long *p = nullptr; return *p;",
        },
    ),
    "js": Case(
        "// How many items are even\nfunction evens(l){\n",
        "const assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = evens;\n"
        "  assert.deepEqual(candidate([]),0);\n  assert.deepEqual(candidate([1, 2, 4]),2);\n}\n\ntest();",
        ("\nfunction ", "\n/*", "\n//", "\nconsole.log"),
        "  return l.filter(x => x % 2 === 0).length;\n}\n",
        {
            "value": "  return 0;\n}\n",
            "compilation": "  return (;\n}\n",
            "loop": "  for (;;) {}\n}\n",
            "leaves": "  process.exit(0);\n}\n",
            "leaves at once": "}\nprocess.exit(0);\n",
            "prints": "  console.log('OK'); process.exit(0);\n}\n",
            "shows its own text": "}\nprocess.stdout.write(require('fs').readFileSync(__filename)); process.exit(0);\n",
            "no function": "",
        },
    ),
    "ts": Case(
        "// How many items are even\nfunction evens(l: number[]): number {\n",
        "declare var require: any;\nconst assert = require('node:assert');\n\n\nfunction test() {\n"
        "  let candidate = evens;\n  assert.deepEqual(candidate([]),0);\n  assert.deepEqual(candidate([1, 2, 4]),2);\n"
        "}\n\ntest();",
        ("\nfunction ", "\n/*", "\n//", "\nclass"),
        "  const chosen: Array<number> = l.filter((x) => x % 2 === 0);\n  return chosen.length;\n}\n",
        {
            "value": "  return 0;\n}\n",
            "compilation": "  return 'text';\n}\n",
            "loop": "  for (;;) {}\n}\n",
            "leaves": "  (globalThis as any).process.exit(0);\n}\n",
            "prints": "  console.log('OK'); (globalThis as any).process.exit(0);\n}\n",
            "no function": "",
        },
    ),
    "java": Case(
        "import java.util.*;\nimport java.lang.reflect.*;\nimport org.javatuples.*;\nclass Problem {\n"
        "    // How many items are even, and how many are not\n"
        "    public static Pair<Long, Long> evens(ArrayList<Long> l) {\n",
        "    }\n    public static void main(String[] args) {\n"
        "    assert(evens((new ArrayList<Long>(Arrays.asList()))).equals((Pair.with(0l, 0l))));\n"
        "    assert(evens((new ArrayList<Long>(Arrays.asList((long)1l, (long)2l, (long)4l)))).equals("
        "(Pair.with(2l, 1l))));\n    }\n\n}\n",
        ("\n    }\n",),
        "        long even = l.stream().filter(x -> x % 2 == 0).count();\n        return Pair.with(even, l.size() - even);",
        {
            "value": "        return Pair.with(0L, 0L);",
            "compilation": '        return "text";',
            "loop": "        while (true) {}",
            "leaves": "        System.exit(0);\n        return null;",
            "leaves at once": "        return null;\n    }\n    static { System.exit(0);",
            "prints": '        System.out.println("OK");\n        System.exit(0);\n        return null;',
            "no function": "",
        },
    ),
    "cs": Case(
        "using System;\nusing System.Numerics;\nusing System.Diagnostics;\nusing System.Collections.Generic;\n"
        "using System.Linq;\nclass Problem {\n    // The even items\n    public static List<long> Evens(List<long> l) {\n",
        "    }\n    public static void Main(string[] args) {\n"
        "    Debug.Assert(Evens((new List<long>())).SequenceEqual((new List<long>())));\n"
        "    Debug.Assert(Evens((new List<long>(new long[]{(long)1L, (long)2L, (long)4L}))).SequenceEqual("
        "(new List<long>(new long[]{(long)2L, (long)4L}))));\n    }\n\n}\n",
        ("\n    }\n",),
        "        return l.Where(x => x % 2 == 0).ToList();",
        {
            "value": "        return l;",
            "compilation": '        return "text";',
            "loop": "        while (true) {}",
            "leaves": "        Environment.Exit(0);\n        return l;",
            "leaves at once": "        return l;\n    }\n    static Problem() { Environment.Exit(0);",
            "prints": '        Console.WriteLine("OK");\n        Environment.Exit(0);\n        return l;',
            "exception": "        throw new Exception();",
            "no function": "",
        },
    ),
    "php": Case(
        "<?php\n// How many items are even\nfunction evens($l) {\n",
        "function candidate(...$args) {\n    return evens(...$args);\n}\n\nfunction test(): void {\n"
        '    if (candidate(array()) !== 0) { throw new Exception("Test failed!"); }\n'
        '    if (candidate(array(1, 2, 4)) !== 2) { throw new Exception("Test failed!"); }\n}\n\ntest();',
        ("\nfunction", "\n?>", "\n//", "\n#"),
        "    return count(array_filter($l, fn($x) => $x % 2 == 0));\n}\n",
        {
            "value": "    return 0;\n}\n",
            "compilation": "    return (;\n}\n",
            "loop": "    while (true) {}\n}\n",
            "leaves": "    exit(0);\n}\n",
            "prints": '    echo "OK"; exit(0);\n}\n',
            "turns the tests into text": "}\n ?>\n",
            "no function": "",
        },
    ),
    "rs": Case(
        "/// How many items are even\nfn evens(l: Vec<isize>) -> isize {\n",
        "}\n\nfn main() {\n    let candidate = evens;\n    assert_eq!(candidate(Vec::<isize>::new()), 0);\n"
        "    assert_eq!(candidate(vec![1, 2, 4]), 2);\n}\n",
        ("\n}",),
        "    l.iter().filter(|x| *x % 2 == 0).count() as isize",
        {
            "value": "    0",
            "compilation": '    "text"',
            "loop": "    loop {}",
            "leaves": "    std::process::exit(0)",
            "prints": '    println!("OK");\n    std::process::exit(0)',
            "no function": "",
        },
    ),
    "sh": Case(
        "#!/bin/bash\n# How many items are even\n#\n# $1 is a space-separated list\nevens() {\n",
        '}\n\ncandidate() {\n    evens "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "") = "0" ]]\n'
        '    [[ $(candidate "1 2 4") = "2" ]]\n}\n\nrun_test',
        ("\n}",),
        "    local n=0\n    for x in $1; do\n        ((x % 2)) || n=$((n + 1))\n    done\n    echo $n",
        {
            "value": "    echo 0",
            "compilation": "    if then",
            "loop": "    while :; do :; done",
            "leaves": "    exit 0",
            "leaves at once": "    echo 0\n    }; trap 'exit 0' ERR; exit 0; f() {",
            "prints": "    echo OK; exit 0",
            "shows its own text": '    :\n    }; cat "$0"; exit 0; f() {',
            "no function": "",
        },
    ),
}

# Answers in the form of chat models: they repeat the function, put helpers above it, and use other indentation.
SERVED = {
    "rs": [
        "use std::collections::HashMap;\n\nconst TWO: isize = 2;\n\n/// How many items are even\nfn evens(l: Vec<isize>) -> isize {\n"
        "    let mut seen: HashMap<bool, isize> = HashMap::new();\n    for x in &l {\n        *seen.entry(x % TWO == 0).or_insert(0) += 1;\n    }\n"
        "    *seen.get(&true).unwrap_or(&0)\n}\n",
        'fn is_even(x: &isize) -> bool {\n    x % 2 == 0 // as in "{"\n}\n\nfn evens( l: Vec<isize> ) -> isize {\n'
        '    l.iter().filter(|x| is_even(x)).count() as isize\n}\n\nfn main() {\n    println!("{}", evens(vec![2]));\n}\n',
    ],
    "java": [
        "import java.util.function.Predicate;\n\nclass Half {\n    static final Predicate<Long> EVEN = x -> x % 2 == 0;\n}\n\n"
        "public class Problem {\n    private static long count(ArrayList<Long> l, Predicate<Long> what) {\n"
        "        return l.stream().filter(what).count();\n    }\n\n    // How many items are even, and how many are not\n"
        "    public static Pair<Long, Long> evens(ArrayList<Long> l) {\n        long even = count(l, Half.EVEN);\n"
        "        return Pair.with(even, l.size() - even);\n    }\n}\n",
        "import java.util.*;\nimport java.util.concurrent.atomic.AtomicLong;\n\npublic static Pair<Long, Long> evens(ArrayList<Long> l) {\n"
        "    AtomicLong even = new AtomicLong();\n    for (long x : l) {\n        if (x % 2 == 0) even.incrementAndGet();\n    }\n"
        "    return Pair.with(even.get(), l.size() - even.get());\n}\n",
    ],
    "js": [
        "const half = (x) => x / 2;\n\nfunction isEven(x) {\n  return Number.isInteger(half(x));\n}\n\nfunction evens(l) {\n"
        "  return l.filter(isEven).length;\n}\n\nconsole.log(evens([1, 2]));\n",
    ],
    "ts": [
        "type Items = number[];\n\nfunction isEven(x: number): boolean {\n  return x % 2 === 0;\n}\n\n"
        "function evens(l: number[]): number {\n  const all: Items = l;\n  return all.filter(isEven).length;\n}\n",
    ],
    "cpp": [
        "#include <bits/stdc++.h>\n#include <numeric>\nusing namespace std;\n\nstruct Even {\n"
        "    bool operator()(long x) const { return x % 2 == 0; }\n};\n\nlong evens(std::vector<long> l)\n{\n    Even even;\n"
        "    return accumulate(l.begin(), l.end(), 0L, [&](long n, long x) {\n        return n + even(x);\n    });\n}\n",
    ],
    "cs": [
        "using System;\nusing System.Text;\nusing System.Collections.Generic;\n\nnamespace Answers\n{\n    public class Solution\n    {\n"
        "        static bool IsEven(long x)\n        {\n            return x % 2 == 0;\n        }\n\n"
        "        public static List<long> Evens(List<long> l)\n        {\n            var found = new List<long>();\n"
        "            foreach (var x in l)\n            {\n                if (IsEven(x)) found.Add(x);\n            }\n"
        "            return found;\n        }\n    }\n}\n",
    ],
    "php": [
        "<?php\n\nfunction is_even($x) {\n    return $x % 2 == 0;\n}\n\nfunction evens($l) {\n"
        "    return count(array_filter($l, 'is_even'));\n}\n",
    ],
    "sh": [
        "#!/bin/bash\n\nis_even() {\n    (( $1 % 2 == 0 ))\n}\n\nevens() {\n    local n=0 x\n    for x in $1; do\n"
        '        if is_even "${x}"; then n=$((n + 1)); fi\n    done\n    echo $n\n}\n\nevens "1 2"\n',
    ],
}

SOLUTIONS = {
    "cpp": {
        "HumanEval_53_add": "    return x + y;",
        "HumanEval_42_incr_list": "    for (auto& x : l) x++;\n    return l;",
        "HumanEval_8_sum_product": "    long s = 0, p = 1;\n    for (auto n : numbers) { s += n; p *= n; }\n"
        "    return std::make_tuple(s, p);",
        "HumanEval_51_remove_vowels": "    std::string out;\n    for (char c : text)\n"
        '        if (!strchr("aeiouAEIOU", c)) out += c;\n    return out;',
        "HumanEval_52_below_threshold": "    return std::all_of(l.begin(), l.end(), [t](long x) { return x < t; });",
    },
    "js": {
        "HumanEval_53_add": "  return x + y;\n}\n",
        "HumanEval_42_incr_list": "  return l.map(x => x + 1);\n}\n",
        "HumanEval_8_sum_product": "  return [numbers.reduce((a, b) => a + b, 0), numbers.reduce((a, b) => a * b, 1)];\n}\n",
        "HumanEval_48_is_palindrome": "  return text === text.split('').reverse().join('');\n}\n",
        "HumanEval_52_below_threshold": "  return l.every(x => x < t);\n}\n",
    },
    "java": {
        "HumanEval_53_add": "        return x + y;",
        "HumanEval_42_incr_list": "        ArrayList<Long> out = new ArrayList<>();\n        for (long x : l) out.add(x + 1);\n"
        "        return out;",
        "HumanEval_8_sum_product": "        long s = 0, p = 1;\n        for (long n : numbers) { s += n; p *= n; }\n"
        "        return Pair.with(s, p);",
        "HumanEval_51_remove_vowels": '        return text.replaceAll("[aeiouAEIOU]", "");',
        "HumanEval_52_below_threshold": "        return l.stream().allMatch(x -> x < t);",
    },
    "php": {
        "HumanEval_53_add": "    return $x + $y;\n}\n",
        "HumanEval_42_incr_list": "    return array_map(fn($x) => $x + 1, $l);\n}\n",
        "HumanEval_8_sum_product": "    return [array_sum($numbers), array_product($numbers)];\n}\n",
        "HumanEval_51_remove_vowels": "    return preg_replace('/[aeiou]/i', '', $text);\n}\n",
        "HumanEval_52_below_threshold": "    foreach ($l as $x) {\n        if ($x >= $t) return false;\n    }\n    return true;\n}\n",
    },
    "rs": {
        "HumanEval_53_add": "    x + y",
        "HumanEval_42_incr_list": "    l.into_iter().map(|x| x + 1).collect()",
        "HumanEval_8_sum_product": "    (numbers.iter().sum(), numbers.iter().product())",
        "HumanEval_51_remove_vowels": '    text.chars().filter(|c| !"aeiouAEIOU".contains(*c)).collect()',
        "HumanEval_52_below_threshold": "    l.iter().all(|x| *x < t)",
    },
    "cs": {
        "HumanEval_53_add": "        return x + y;",
        "HumanEval_42_incr_list": "        return l.Select(x => x + 1).ToList();",
        "HumanEval_8_sum_product": "        return Tuple.Create(numbers.Sum(), numbers.Aggregate(1L, (a, b) => a * b));",
        "HumanEval_51_remove_vowels": '        return string.Concat(text.Where(c => !"aeiouAEIOU".Contains(c)));',
        "HumanEval_52_below_threshold": "        return l.All(x => x < t);",
    },
    "sh": {
        "HumanEval_53_add": "    echo $(($1 + $2))",
        "HumanEval_42_incr_list": '    local out=()\n    for x in $1; do out+=($((x + 1))); done\n    echo "${out[*]}"',
        "HumanEval_8_sum_product": '    local s=0 p=1\n    for x in $1; do s=$((s + x)); p=$((p * x)); done\n    echo "$s $p"',
        "HumanEval_51_remove_vowels": "    echo \"$1\" | tr -d 'aeiouAEIOU'",
        "HumanEval_52_below_threshold": "    for x in $1; do\n        ((x < $2)) || { echo false; return; }\n    done\n    echo true",
    },
}
SOLUTIONS["ts"] = SOLUTIONS["js"]
