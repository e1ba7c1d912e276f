"""The named methods, filed by what they change against MAML."""

from .closed_form import lrd2, metaoptnet, r2d2
from .concepts import deml
from .estimators import anil, boil, fomaml, imaml, maml, meta_sgd, protonet, reptile
from .metric import matching, nil
from .plus_plus import maml_plus_plus
from .variants import (
    alpha_maml,
    bias_transformation,
    bootstrapped,
    cavia,
    dropgrad,
    es_maml,
    hf_maml,
    meta_curvature,
    meta_lstm,
    proto_maml,
    sign_maml,
    zeroing,
)

__all__ = [
    "alpha_maml",
    "anil",
    "bias_transformation",
    "boil",
    "bootstrapped",
    "cavia",
    "deml",
    "dropgrad",
    "es_maml",
    "fomaml",
    "hf_maml",
    "imaml",
    "lrd2",
    "maml",
    "maml_plus_plus",
    "matching",
    "meta_curvature",
    "meta_lstm",
    "meta_sgd",
    "metaoptnet",
    "nil",
    "proto_maml",
    "protonet",
    "r2d2",
    "reptile",
    "sign_maml",
    "zeroing",
]
