from encoders.text.adapter import KINDS, TextAdapter, TextConfig
from encoders.text.preprocess import TextPreprocess, TextPreprocessor, official_tokenizer

__all__ = ["KINDS", "TextAdapter", "TextConfig", "TextPreprocess", "TextPreprocessor", "official_tokenizer"]
