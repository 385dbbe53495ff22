"""What a run saves: it is tried before the first step, and older loaders read it as this one does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tiny
import torch
from training import At, config, interrupt, quiet
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from reflectioncoder.config.train import LoraConfig
from reflectioncoder.dialogues.tokens import END_OF_MESSAGE
from reflectioncoder.errors import UserError
from reflectioncoder.files.cache import cache_folder
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.special_tokens import add_special_tokens, train_every_row
from reflectioncoder.train.train import describe_plan, train

OLD = "4.57.6"
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256, "rope_theta": 500000.0,
}  # fmt: skip


def llama(folder: Path, **changes: object) -> None:
    """A tiny Llama with the given changes of its configuration, and the tiny tokenizer."""
    torch.manual_seed(0)
    usual = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True,
    ).to_dict()  # fmt: skip
    tiny.save(folder, LlamaForCausalLM(LlamaConfig(**{**usual, **changes})).float())


def generation(folder: Path, **settings: object) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_sampling_settings_without_do_sample_are_repaired_before_the_first_step(base: Path, tmp_path: Path) -> None:
    tiny.save(tmp_path / "vicuna", tiny.llama(258, dtype=torch.float32))
    generation(tmp_path / "vicuna", temperature=0.9, top_p=0.6)
    said: list[str] = []
    train(config(base, tmp_path / "run", model=str(tmp_path / "vicuna"), max_steps=2, save_steps=1), said.append)
    assert "generation config: has temperature, top_p without do_sample, which is now set to true" in said
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run").generation_config
    assert (saved.do_sample, saved.temperature, saved.top_p) == (True, 0.9, 0.6)


def test_other_settings_that_cannot_be_saved_are_dropped(base: Path, tmp_path: Path) -> None:
    tiny.save(tmp_path / "odd", tiny.llama(258, dtype=torch.float32))
    generation(tmp_path / "odd", early_stopping=True)
    said: list[str] = []
    train(config(base, tmp_path / "run", model=str(tmp_path / "odd"), max_steps=1), said.append)
    assert any(line.startswith("generation config: cannot be saved (") for line in said)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run").generation_config
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert saved.eos_token_id == [tokenizer.convert_tokens_to_ids(END_OF_MESSAGE), 1]


def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("this configuration\ncannot be saved")

    monkeypatch.setattr(LlamaConfig, "save_pretrained", refuse)
    with pytest.raises(UserError, match=r"could not be saved after training \(this configuration\); correct its"):
        train(config(base, tmp_path / "run"), quiet)
    assert not (tmp_path / "run").exists()


def test_the_row_of_an_end_token_that_is_also_the_pad_token_is_trained() -> None:
    """Compared with finite differences: PyTorch alone would give this row no gradient."""
    torch.manual_seed(0)
    model = tiny.llama(tied=False)
    table = torch.nn.Embedding(tiny.VOCABULARY, 32, padding_idx=1).double()
    with torch.no_grad():
        table.weight.copy_(model.get_input_embeddings().weight)
    model.set_input_embeddings(table)
    ids = torch.tensor([[0, 5, 1, 9, 12, 1, 30]])

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:])

    loss().backward()
    assert not table.weight.grad[1].any()  # what would be trained silently
    model.zero_grad()
    train_every_row(model)
    loss().backward()
    found = table.weight.grad[1].clone()
    for column in (0, 17):
        with torch.no_grad():
            table.weight[1, column] += 1e-5
            above = loss().item()
            table.weight[1, column] -= 2e-5
            below = loss().item()
            table.weight[1, column] += 1e-5
        assert found[column].item() == pytest.approx((above - below) / 2e-5, rel=1e-4)


def test_a_run_of_a_model_whose_pad_token_is_its_end_token_trains_every_row(base: Path, tmp_path: Path) -> None:
    llama(tmp_path / "model", pad_token_id=1, tie_word_embeddings=False)
    model, _ = load_model_and_tokenizer(str(tmp_path / "model"), device="cpu")
    assert model.get_input_embeddings().padding_idx == 1

    def check(_: object = None) -> None:
        assert all(m.padding_idx is None for m in seen.modules() if isinstance(m, torch.nn.Embedding))

    class Look(At):
        def on_step_begin(
            self, args: object, state: object, control: object, model: object = None, **_: object
        ) -> None:
            nonlocal seen
            seen = model

    seen: torch.nn.Module = torch.nn.Identity()
    train(config(base, tmp_path / "run", model=str(tmp_path / "model"), max_steps=1), quiet, [Look(1, check)])
    assert not isinstance(seen, torch.nn.Identity)


def test_modes_follow_the_umask(base: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with pytest.raises(UserError, match="interrupted"):
            train(config(base, tmp_path / "run"), quiet, [At(3, interrupt)])
        train(config(base, tmp_path / "run", resume=True, save_steps=100), quiet)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o640} and "model.safetensors" in modes, modes


def test_the_rotary_base_is_written_under_both_names(base: Path, tmp_path: Path) -> None:
    llama(tmp_path / "model", rope_parameters=LLAMA3)
    train(config(base, tmp_path / "run", model=str(tmp_path / "model"), max_steps=1), quiet)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["rope_theta"] == 500000.0 and saved["rope_parameters"] == LLAMA3
    assert saved["rope_scaling"] == {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    settings = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in settings
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert again.config.rope_parameters == LLAMA3
    assert END_OF_MESSAGE in AutoTokenizer.from_pretrained(tmp_path / "run").all_special_tokens


@pytest.fixture(scope="module")
def older() -> list[str]:
    """A Python with transformers 4.57 before the packages of this environment, in a folder of the cache."""
    folder = cache_folder() / f"tests-transformers-{OLD}"
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        try:
            venv.create(folder, with_pip=True)
            subprocess.run(
                [python, "-m", "pip", "install", "-q", f"transformers=={OLD}"], check=True, timeout=600,
                capture_output=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"transformers {OLD} cannot be installed here: {error}")
        (folder / "complete").touch()
    # searched after the folder's own packages: torch, numpy and safetensors are those of this environment
    site = next((folder / "lib").glob("python*/site-packages"))
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_this_environment.pth").write_text("".join(f"{path}\n" for path in paths))
    return [str(python), "-W", "ignore", "-c"]


READ = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4.57"), transformers.__version__
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids * 40])).logits[0, -1]
print(json.dumps({
    "prompt": prompt, "ids": ids, "logits": logits.tolist(), "eos": model.generation_config.eos_token_id,
    "special": sorted(tokenizer.all_special_tokens), "plain": tokenizer("x = 12 + 345 <|user|>")["input_ids"],
    "decoded": tokenizer.decode(ids, skip_special_tokens=True),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "llama3", "digits", "checkpoint", "adapter merged"])
def test_what_is_saved_reads_the_same_with_transformers_4_57(
    base: Path, tmp_path: Path, older: list[str], kind: str
) -> None:
    llama(
        tmp_path / "model", rope_parameters=LLAMA3 if kind == "llama3" else {"rope_theta": 1e6, "rope_type": "default"}
    )
    if kind == "digits":
        llama(tmp_path / "model", vocab_size=512)
        (tmp_path / "model" / "tokenizer.json").write_text(tiny.digits())
        settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    run = tmp_path / "run"
    lora = LoraConfig(2) if kind == "adapter merged" else LoraConfig()
    settings = config(base, run, model=str(tmp_path / "model"), max_steps=2, save_steps=1, lora=lora)
    if kind == "checkpoint":
        with pytest.raises(UserError, match="interrupted"):
            train(settings, quiet, [At(2, interrupt)])
        run = run / "checkpoint-1"
    else:
        train(settings, quiet)
    done = subprocess.run([*older, READ, str(run), "add 12 and 345"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    old = json.loads(done.stdout)
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "add 12 and 345"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert (old["prompt"], old["ids"]) == (prompt, ids)
    assert old["plain"] == tokenizer("x = 12 + 345 <|user|>")["input_ids"]
    assert old["special"] == sorted(tokenizer.all_special_tokens)
    assert old["eos"] == model.generation_config.eos_token_id
    assert old["decoded"] == tokenizer.decode(ids, skip_special_tokens=True)
    with torch.no_grad():
        logits = model(torch.tensor([ids * 40])).logits[0, -1]
    assert torch.allclose(torch.tensor(old["logits"]), logits, atol=1e-4)


def test_quantised_weights_are_not_trained(base: Path, tmp_path: Path) -> None:
    llama(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UserError, match="quantised with fp8 and cannot be trained; take the unquantised model"):
        train(config(base, tmp_path / "run", model=str(tmp_path / "model")), quiet)


def test_an_adapter_can_be_the_model_of_the_next_run(base: Path, tmp_path: Path) -> None:
    adapter = config(base, tmp_path / "adapter", max_steps=1, lora=LoraConfig(2, output="adapter"))
    train(adapter, quiet)
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(base / "model")
    following = config(base, tmp_path / "run", model=str(tmp_path / "adapter"), max_steps=1)
    assert "1 steps" in describe_plan(following)
    train(following, quiet)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    with pytest.raises(UserError, match="is also the output, which would replace it"):
        train(config(base, base / "model", model=str(tmp_path / "adapter"), overwrite=True), quiet)


def test_special_tokens_are_added_once(base: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(str(base / "model"), device="cpu")
    assert add_special_tokens(model, tokenizer) == 7
    assert add_special_tokens(model, tokenizer) == 0
