"""What sentencepiece makes of texts, and what the regular expressions of GGUF vocabularies do in oniguruma.

    pip install sentencepiece==0.2.3 tokenizers==0.23.3
    python generate_vocabularies.py

Writes, after `generate_tokenizers.py`:

- `sentencepiece.json`: two tiny BPE vocabularies as Llama 2's and Gemma's files describe theirs, with texts and ids
  without BOS. Kinds are GGUF's: 1 normal, 2 unknown, 3 control, 6 byte.
- `words.json`: for every pre-tokenizer, the ids of `tokenizers.json`'s texts with the vocabulary of `models/qwen3`; its
  added tokens that are not special stay whole. The expressions are those of llama.cpp's sources.
"""

import io
import json

import sentencepiece
from generate_tokenizers import CORPUS, HERE, TEXTS, compact, expanded, listed
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {
    "gpt-2": [GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "smollm": [r"\p{N}", GPT2],
    "tekken": [TEKKEN],
}


def vocabulary(prefix):
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=buffer, vocab_size=380, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=prefix, remove_extra_whitespaces=False, num_threads=1,
        minloglevel=2, hard_vocab_limit=False, character_coverage=0.98,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    ids = range(model.vocab_size())
    kind = lambda id: 2 if model.is_unknown(id) else 3 if model.is_control(id) else 6 if model.is_byte(id) else 1  # noqa: E731
    texts = [text for text in map(expanded, TEXTS) if len(text) < 400]
    return {
        "tokens": [model.id_to_piece(id) for id in ids],
        "scores": [model.get_score(id) for id in ids],
        "kinds": [kind(id) for id in ids],
        # sentencepiece escapes a NUL, which ends a text in its C interface.
        "cases": [{"text": text, "ids": model.encode(text)} for text in texts if "\0" not in text],
    }


def words(expressions, name):
    source = json.loads((HERE / "models/qwen3/tokenizer.json").read_text())
    merges = [tuple(pair) for pair in source["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(source["model"]["vocab"], merges, ignore_merges=name == "tekken"))
    tokenizer.normalizer = normalizers.Sequence([])
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    whole = [token["content"] for token in source["added_tokens"] if not token["special"]]
    plain = [token["content"] for token in source["added_tokens"] if token["special"]]
    assert not set(plain) & set(source["model"]["vocab"])
    tokenizer = with_added(tokenizer, whole, source)
    return [listed(tokenizer.encode(expanded(text)).ids) for text in TEXTS]


def with_added(tokenizer, whole, source):
    """Added tokens under the ids that the folder gives them."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in source["added_tokens"] if token["content"] in whole]
    vocab = state["model"]["vocab"]
    vocab.update({token["content"]: token["id"] for token in state["added_tokens"]})
    return Tokenizer.from_str(json.dumps(state))


def write(name, what):
    (HERE / name).write_text(compact(json.dumps(what, ensure_ascii=False, indent=1)) + "\n")


if __name__ == "__main__":
    write("sentencepiece.json", {"with_prefix": vocabulary(True), "without_prefix": vocabulary(False)})
    write("words.json", {name: words(expressions, name) for name, expressions in WORDS.items()})
