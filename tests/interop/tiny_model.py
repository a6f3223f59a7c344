"""Makes a random Llama small enough to answer hundreds of tokens a second on one core, with a byte-level tokenizer.

Runs inside the FastChat environment (torch, transformers, tokenizers): ``python tiny_model.py FOLDER KIND``. The
seed is fixed, so greedy decoding gives the same text in every run. The text is noise, which is wanted: it holds
half-finished UTF-8 sequences and spaces at odd places, all the things a proxy may get wrong.

A ``certain`` model gives its greedy answer at any temperature, for clients that cannot be told one. It never ends of
itself, so that a test knows who ended it, and never says what a terminal would interpret: a control character or a
square bracket.

A ``pieced`` model has a tokenizer as Llama's is: words with the space before them, bytes for what is no word, and a
decoder that takes the space at the beginning of a text away. It has learnt one tale by heart, which it tells over and
over: each token follows from the one before it alone, so an answer can be taken up at any of its words.

A ``spelled`` model is a certain one that says single characters only, of those the tokenizer never joins with another:
what it said, read again, is the very tokens it said, so an answer can be taken up in the middle and end the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

SEED = 20240211
CONTEXT_LENGTH = 2048
VOCABULARY = 512
HIDDEN = 64
SENTENCES = (
    "USER: What is a gateway? ASSISTANT: A gateway stands between two networks and speaks both of their languages.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "An artificial assistant answers what a curious person asks it in this chat.",
    "数据库和语言模型之间需要一个翻译。",
    "Größe, Straße, naïve, façade 🙂🚀",
    "SELECT name, count(*) FROM orders GROUP BY name ORDER BY 2 DESC;",
)

# The pieces of the tale, each of which stands there once.
PIECES = (
    "▁The ▁gateway ▁stands ▁between ▁two ▁networks , ▁and ▁speaks ▁both ▁of ▁their ▁languages . <0x0A> ▁Gr "
    "<0xC3> <0xB6> ße ▁counts : ▁1 ▁2 ▁3 4 ; <0xE6> <0x95> <0xB0> 据 库 ▁和 语言 模型 ， ▁then <0xF0> <0x9F> "
    "<0x99> <0x82> ▁do n't ▁( stop ) ▁▁ ▁indent ed ▁<b> bold </b> !"
)
TALE = PIECES.split(" ")


def saved(tokenizer: Tokenizer, folder: Path) -> int:
    """Save the tokenizer as transformers reads it; returns its vocabulary size."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return len(fast)


def save_tokenizer(folder: Path) -> int:
    """Train and save the tokenizer; returns its vocabulary size. Ids 0, 1, 2 are <unk>, <s>, </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer=trainer)
    return saved(tokenizer, folder)


def save_pieces(folder: Path) -> int:
    """Save the tokenizer of a ``pieced`` model; returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    special = ["<unk>", "<s>", "</s>"]
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [chr(code) for code in range(ord("!"), 127)] + ["▁"]
    words = [piece for piece in TALE if piece not in every_byte and piece not in letters]
    scores = [(special, 0.0), (every_byte, -20.0), (letters, -10.0), (words, -1.0)]
    tokenizer = Tokenizer(
        models.Unigram([(p, s) for pieces, s in scores for p in pieces], unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return saved(tokenizer, folder)


def teach_tale(model: LlamaForCausalLM, folder: Path) -> None:
    """Make each token of the tale call for the next one, and any other for the first; no token looks further back."""
    import torch
    from transformers import AutoTokenizer

    tale = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(TALE)
    assert len(set(tale)) == len(tale), "a token that stands twice in the tale has two tokens that follow it"
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    known = torch.nn.functional.normalize(torch.randn(len(tale) + 1, HIDDEN))
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    embedding[:] = known[-1]
    embedding[tale] = known[:-1]
    head.zero_()
    head[tale] = known[:-1].roll(1, 0) * 1e5
    head[tale[0]] += known[-1] * 1e5


def unprintable(folder: Path, vocabulary: int) -> list[int]:
    """The tokens that decode to a control character or a square bracket."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.decode([token]) for token in range(vocabulary)]
    return [token for token, text in enumerate(texts) if any(c in "[]\x7f" or c < " " for c in text)]


def joined(folder: Path, vocabulary: int) -> list[int]:
    """All tokens but those that are one visible ASCII character which is part of no other token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = tokenizer.convert_ids_to_tokens(list(range(vocabulary)))
    parts = {character for text in texts if len(text) > 1 for character in text}
    return [token for token, text in enumerate(texts) if len(text) > 1 or text in parts or not "!" <= text <= "~"]


def save_model(folder: Path, vocabulary: int, kind: str) -> None:
    """Save a randomly initialised two-layer Llama whose weights depend on ``SEED`` and the kind only."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        # The default of 0.02 gives logits so flat that greedy decoding repeats one token for ever.
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # A fair share of the answers of a few dozen tokens shall end of themselves.
        model.lm_head.weight[config.eos_token_id].mul_(1.3)
        if kind == "pieced":
            teach_tale(model, folder)
        elif kind != "plain":
            # Logits of millions: the distance between the best two tokens is beyond what any temperature levels.
            model.lm_head.weight.mul_(1e5)
            # The best of many random logits is above zero, so a token with a logit of zero is never chosen.
            unsaid = joined(folder, vocabulary) if kind == "spelled" else unprintable(folder, vocabulary)
            model.lm_head.weight[[config.eos_token_id, *unsaid]] = 0.0
    model.save_pretrained(folder)


def make(folder: Path, kind: str) -> None:
    """Make the model in ``folder`` unless it is there; an interrupted run leaves no half-made folder behind."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    save_model(unfinished, (save_pieces if kind == "pieced" else save_tokenizer)(unfinished), kind)
    os.replace(unfinished, folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2])
