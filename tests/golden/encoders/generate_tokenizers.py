"""Tiny tokenizers of every kind inside the folders of `models/`, and what transformers makes of texts and chats.

    pip install transformers==5.23.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf jinja2 torch==2.15.0 numpy==2.4.6
    python generate_models.py && python generate_tokenizers.py

Writes `tokenizer.json` and `tokenizer_config.json` (and `chat_template.jinja` for the folder that keeps it there) of
llama2, llama3, mistral, qwen3, gemma3-text and t5-gated, and `tokenizers.json`:

- `texts`: every text, as `text` or as `part` repeated `times`.
- `tokenizers.NAME.encodings[i]`, for `texts[i]`: `template` are the ids where special tokens are recognised; `plain`
  those where the text is only text. Both have the BOS and EOS of tokenizer.json's post-processor: transformers 5 does
  not read `add_bos_token` and `add_eos_token` where there is a tokenizer.json. `offsets` are the bytes of
  every token of `plain`, [0, 0] for BOS and EOS; long texts have none. Long lists are `{"head", "tail", "len",
  "sha256"}`, the digest over the ids as little-endian i32.
- `plain_of_transformers` is there where `split_special_tokens=True` still gives a control token (a Unigram or BPE
  vocabulary has the piece `</s>`, too); `plain` is then without that piece. Added tokens that are not special
  (`<think>`, Gemma's runs of newlines) stay whole in both modes.
- Everything is what `AutoTokenizer` makes of the folder. `PreTrainedTokenizerFast`, which takes tokenizer.json as it is,
  gives the same, but for llama2: the class replaces the normaliser by one that does not prepend before a space.
- `tokenizers.NAME.chats`: `apply_chat_template` with the folder's template; `templates`: more templates of the hub,
  rendered with `<s>` and `</s>`. A template that refuses has `error`.
"""

import base64
import copy
import hashlib
import io
import json
import re
import unicodedata

import chat_templates
import numpy as np
import sentencepiece
import transformers as hf
from generate_models import HERE, MODELS
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = [
    "a flat cartoon emoji of red apple, green pear, blue heart, yellow circle, black square, white star",
    "a picture of a small brown dog, a large orange cat, a purple octopus, a pink flower, a grey whale",
    "Describe the image by detailing the color, shape, size, texture, quantity, text, and spatial relationships",
    "You are a helpful assistant. food and drink, animals and nature, travel and places, symbols, objects, flags",
    "Ein großer brauner Bär läuft über die grüne Wiese. 一只红色的狐狸。 قطة صغيرة",
] * 4

TEXTS = [
    "a red fox", "A picture of a small brown dog, a large orange cat!", " leading and trailing ",
    "Größe, Übermut, süße Äpfel: ÄÖÜß", "U\u0308ber e\u0301tude", "一只红色的狐狸在雪地里。", "数字123和ABC", "قطة صغيرة على السرير",
    "🦊", "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪", "0 12 345 6789 1,234.56 ²½", "a  b   c    d", "\n\n\n \n\t\tx\r\ny\n", "   ", "\t", "",
    "<|im_start|>system\nyou are<|im_end|>", "<s>a</s>", "</s>", "x </s> y", "<unk> <pad> <bos><eos>", "<0x41><0x0A>",
    "<|begin_of_text|><|eot_id|>", "<start_of_turn>user\nhi<end_of_turn>", "<think>\nred\n</think>", "<extra_id_0> fox",
    "<|im_start", "[INST] <<SYS>>", "don't they'll I'VE", "ﬁne Ｆｕｌｌ　width…", "a\u00a0b\u200bc\ufeffd", "zebrafish zebra",
    "\u0000\u0001 control", "▁under▁line",
    {"part": "a red fox, ", "times": 910}, {"part": "狐狸🦊\n", "times": 2500}, {"part": " ", "times": 10000},
]


def controls(tokens, special=True):
    return [
        {"id": id, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": special}
        for text, id in tokens.items()
    ]


def trained(pre_tokenizer, alphabet, size):
    """Merges in order, learnt from the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return [list(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def bpe(vocab, merges, **more):
    fixed = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {**fixed, **more, "vocab": vocab, "merges": merges}


def template_processing(bos=None, eos=None):
    piece = lambda name, kind: {"SpecialToken": {"id": name, "type_id": kind}}  # noqa: E731
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    if bos:
        single = [piece(bos[0], 0), *single]
        pair = [piece(bos[0], 0), pair[0], piece(bos[0], 1), pair[1]]
    if eos:
        single = [*single, piece(eos[0], 0)]
        pair = [pair[0], piece(eos[0], 0), *pair[1:], piece(eos[0], 1)]
    ends = {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in filter(None, (bos, eos))}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ends}


def write(name, config, model, added, normalizer, pre_tokenizer, post_processor, decoder):
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model,
    }
    (MODELS / name / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    text = json.dumps(config, ensure_ascii=False, indent=1) + "\n"
    (MODELS / name / "tokenizer_config.json").write_text(text)


def byte_split(regex):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}


BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_vocab(size, whole=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet, size)
    pieces = dict.fromkeys([*alphabet, *(a + b for a, b in merges), *whole])
    return {piece: id for id, piece in enumerate(pieces)}, merges


def llama3():
    # Words that no merge makes: only `ignore_merges` finds them.
    vocab, merges = byte_vocab(340, ["Ġzebra", "zebrafish"])
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special = {name: len(vocab) + i for i, name in enumerate(names)}
    bos = (names[0], special[names[0]])
    config = {
        "added_tokens_decoder": {str(t.pop("id")): t for t in controls(special)}, "bos_token": names[0],
        "clean_up_tokenization_spaces": True, "eos_token": names[4], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": chat_templates.LLAMA3,
    }
    post = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template_processing(bos),
    ]}
    write("llama3", config, bpe(vocab, merges, ignore_merges=True), controls(special), None, byte_split(LLAMA3_REGEX),
          post, BYTE_DECODER)


def qwen3():
    vocab, merges = byte_vocab(340)
    special = {name: len(vocab) + i for i, name in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    names = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
    whole = {name: len(vocab) + 3 + i for i, name in enumerate(names)}
    added = [*controls(special), *controls(whole, special=False)]
    config = {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    post = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    write("qwen3", config, bpe(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=""), added,
          {"type": "NFC"}, byte_split(QWEN_REGEX), post, BYTE_DECODER)
    (MODELS / "qwen3" / "chat_template.jinja").write_text(chat_templates.QWEN3)


def sentencepiece_vocab(names, whole, size):
    """SentencePiece's BPE: control tokens, bytes, then pieces of letters."""
    spaced = "".join(CORPUS).replace(" ", "\u2581")
    alphabet = sorted(char for char in set(spaced) if char.isascii() or char in "\u2581äöüßÄ")
    merges = trained(pre_tokenizers.Metaspace(prepend_scheme="never"), alphabet, len(alphabet) + size)
    merges = [pair for pair in merges if set("".join(pair)) <= set(alphabet)]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = dict.fromkeys([*names, *whole, *fallback, *(a + b for a, b in merges), *alphabet])
    return {piece: id for id, piece in enumerate(pieces)}, merges


SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
SENTENCEPIECE_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
]}


def llama2():
    """Normaliser that prepends, no pre-tokenizer; the special tokens of the config are objects."""
    vocab, merges = sentencepiece_vocab(["<unk>", "<s>", "</s>"], [], 48)
    special = {name: vocab[name] for name in ("<unk>", "<s>", "</s>")}
    token = lambda text: {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": False,  # noqa: E731
                          "rstrip": False, "single_word": False}
    config = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": token("<s>"), "chat_template": chat_templates.LLAMA2,
        "clean_up_tokenization_spaces": False, "eos_token": token("</s>"), "legacy": True, "model_max_length": 4096,
        "pad_token": None, "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", "unk_token": token("<unk>"),
    }
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, SPACES]}
    write("llama2", config, bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), controls(special),
          normalizer, None, template_processing(("<s>", 1)), SENTENCEPIECE_DECODER)


def mistral():
    """Metaspace that prepends to the first piece only; the config asks for an EOS, but tokenizer.json rules."""
    vocab, merges = sentencepiece_vocab(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], [], 48)
    special = {name: vocab[name] for name in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")}
    config = {
        "add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "LlamaTokenizer",
        "chat_template": [{"name": "default", "template": chat_templates.MISTRAL}, {"name": "tool_use", "template": "{{ tools }}"}],
    }
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    write("mistral", config, bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), controls(special),
          None, metaspace, template_processing(("<s>", 1)), SENTENCEPIECE_DECODER)


def gemma3():
    """No prefix space; runs of newlines and spaces are added tokens that are not special."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n", "\n\n", "\u2581\u2581"]
    vocab, merges = sentencepiece_vocab(names, runs, 48)
    merges = [["\n", "\n"], ["\u2581", "\u2581"], *merges]
    special = {name: vocab[name] for name in names}
    added = [*controls(special), *controls({run: vocab[run] for run in runs}, special=False)]
    config = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
        "unk_token": "<unk>", "clean_up_tokenization_spaces": False, "model_max_length": 1000000000000000019884624838656,
        "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer", "chat_template": chat_templates.GEMMA3,
    }
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    write("gemma3-text", config, bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), added, SPACES,
          split, template_processing(("<bos>", 2)), SENTENCEPIECE_DECODER)


# What T5's normaliser does to these characters, of its thousands of rules.
RULES = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": "", "\ufeff": "", "ﬁ": "fi", "…": "...",
         "²": "2", "½": "1\u20442", "U\u0308": "Ü", "e\u0301": "é"}


def t5():
    """Unigram with a precompiled normaliser, EOS and no BOS."""
    wide = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF21, 0xFF5B)}
    rules = MODELS / "rules.tsv"
    hexes = lambda text: " ".join(f"{ord(char):X}" for char in text)  # noqa: E731
    rules.write_text("".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in {**RULES, **wide}.items()))
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=buffer, vocab_size=200, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, normalization_rule_tsv=str(rules), num_threads=1, minloglevel=2,
        required_chars="".join(map(chr, range(33, 127))),
    )
    rules.unlink()
    processor = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    pieces = [[processor.id_to_piece(i), processor.get_score(i)] for i in range(processor.vocab_size())]
    names = ["<pad>", "</s>", "<unk>"]
    extra = [f"<extra_id_{i}>" for i in reversed(range(8))]
    special = {name: i for i, name in enumerate(names)} | {name: len(pieces) + i for i, name in enumerate(extra)}
    config = {
        "additional_special_tokens": extra[::-1], "clean_up_tokenization_spaces": True, "eos_token": "</s>",
        "extra_ids": 8, "model_max_length": 512, "pad_token": "<pad>", "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    charsmap = precompiled_charsmap(buffer.getvalue())
    model = {"type": "Unigram", "unk_id": 2, "vocab": [*pieces, *([name, 0.0] for name in extra)], "byte_fallback": False}
    write("t5-gated", config, model, controls(special), {"type": "Precompiled", "precompiled_charsmap": charsmap},
          {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
          template_processing(eos=("</s>", 1)), metaspace)


def precompiled_charsmap(model):
    """The bytes of `normalizer_spec.precompiled_charsmap`, in base64."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def expanded(text):
    return text if isinstance(text, str) else text["part"] * text["times"]


def listed(ids):
    if len(ids) <= 400:
        return ids
    digest = hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest()
    return {"head": ids[:20], "tail": ids[-20:], "len": len(ids), "sha256": digest}


def unmatchable(tokenizer):
    """The same tokenizer, where no text can make a control token: their pieces cannot be met in a text."""
    tokenizer = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    hidden = lambda piece: f"\ue000{piece}\ue000" if piece in special else piece  # noqa: E731
    vocab = tokenizer["model"]["vocab"]
    if tokenizer["model"]["type"] == "Unigram":
        tokenizer["model"]["vocab"] = [[hidden(piece), score] for piece, score in vocab]
    else:
        tokenizer["model"]["vocab"] = {hidden(piece): id for piece, id in vocab.items()}
        if tokenizer["model"]["unk_token"]:
            tokenizer["model"]["unk_token"] = hidden(tokenizer["model"]["unk_token"])
    for token in tokenizer["added_tokens"]:
        token["content"] = hidden(token["content"])
    tokenizer["post_processor"] = None
    return Tokenizer.from_str(json.dumps(tokenizer))


def encoded(tokenizer, plain, text):
    template = tokenizer(text)["input_ids"]
    theirs = tokenizer(text, split_special_tokens=True)["input_ids"]
    ends = tokenizer("")["input_ids"]
    bos = [id for id in ends if id != tokenizer.eos_token_id]
    eos = ends[len(bos) :]
    encoding = plain.encode(text, add_special_tokens=False)
    out = {"template": listed(template), "plain": listed(bos + encoding.ids + eos)}
    assert not {*encoding.ids} & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}, (text, encoding.tokens)
    if theirs != bos + encoding.ids + eos:
        out["plain_of_transformers"] = listed(theirs)
    if len(encoding.ids) <= 400:
        starts = np.cumsum([0, *(len(char.encode()) for char in text)]).tolist()
        spans = [[starts[a], starts[b]] for a, b in encoding.offsets]
        out["offsets"] = [[0, 0]] * len(bos) + spans + [[0, 0]] * len(eos)
    return out


SYSTEM = {"role": "system", "content": " You describe <images> & 'colours' in Größe.\n"}
USER = {"role": "user", "content": "  a red fox \"in\" the snow 🦊\n"}
ASSISTANT = {"role": "assistant", "content": "<think>\nred\n</think>\n\nA fox."}
CHATS = [[SYSTEM, USER], [USER], [SYSTEM, USER, ASSISTANT, USER], [ASSISTANT, USER], [USER, USER]]


def chats(tokenizer, **more):
    out = []
    for messages in CHATS:
        for prompt in (True, False):
            case = {"messages": messages, "add_generation_prompt": prompt}
            options = {"add_generation_prompt": prompt, **more}
            try:
                case["text"] = tokenizer.apply_chat_template(copy.deepcopy(messages), tokenize=False, **options)
                if not more:
                    ids = tokenizer.apply_chat_template(copy.deepcopy(messages), tokenize=True, return_dict=False, **options)
                    assert ids == tokenizer(case["text"], add_special_tokens=False)["input_ids"]
                    case["ids"] = ids
            except Exception as error:  # jinja's own errors, of several kinds
                case["error"] = str(error)
            out.append(case)
    return out


FOLDERS = {"llama2": llama2, "llama3": llama3, "mistral": mistral, "qwen3": qwen3, "gemma3-text": gemma3, "t5-gated": t5}


def main():
    out = {"texts": [{"text": text} if isinstance(text, str) else text for text in TEXTS], "tokenizers": {}}
    for name, make in FOLDERS.items():
        make()
        tokenizer = hf.AutoTokenizer.from_pretrained(MODELS / name)
        rows = json.loads((MODELS / name / "config.json").read_text())["vocab_size"]
        assert len(tokenizer) <= rows, (name, len(tokenizer), rows)
        plain = unmatchable(tokenizer)
        encodings = [encoded(tokenizer, plain, expanded(text)) for text in TEXTS]
        found = {"num_tokens": len(tokenizer), "encodings": encodings}
        if tokenizer.chat_template:
            found["chats"] = chats(tokenizer)
        differing = sum("plain_of_transformers" in encoding for encoding in encodings)
        listed_only = hf.PreTrainedTokenizerFast.from_pretrained(MODELS / name)
        others = [text for text in map(expanded, TEXTS) if listed_only(text)["input_ids"] != tokenizer(text)["input_ids"]]
        print(f"{name}: {type(tokenizer).__name__}, {len(tokenizer)} tokens; transformers' plain text differs {differing} "
              f"times; tokenizer.json alone differs for {others[:4]} ({len(others)})")
        out["tokenizers"][name] = found
    llama2_tokenizer = hf.AutoTokenizer.from_pretrained(MODELS / "llama2")
    out["templates"] = {
        name: {"template": template, "chats": chats(llama2_tokenizer, chat_template=template)}
        for name, template in chat_templates.OTHERS.items()
    }
    lines = json.dumps(out, ensure_ascii=False, indent=1)
    lines = compact(lines)
    (HERE / "tokenizers.json").write_text(lines + "\n")


def compact(text):
    """Lists of numbers on one line."""
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", "", m[1]) + "]", text)
    return re.sub(r"\[\s+(\[[\d,\[\]\s]+?\])\s+\]", lambda m: "[" + re.sub(r"\s+", "", m[1]) + "]", text)


if __name__ == "__main__":
    main()
