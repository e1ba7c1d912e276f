"""The named methods, filed by what they change against MAML."""

from .baselines import scratch
from .estimators import es_maml, fomaml, hf_maml, imaml, maml, reptile
from .features import lrd2, matching, metaoptnet, nil, protonet, r2d2
from .hyper import bilevel
from .objectives import bootstrapped, deml, maml_plus_plus
from .registry import METHODS, Named, named
from .scopes import anil, bias_transformation, boil, cavia, proto_maml, zeroing
from .solvers import alpha_maml, dropgrad, meta_curvature, meta_lstm, meta_sgd, sign_maml

__all__ = [
    "METHODS",
    "Named",
    "alpha_maml",
    "anil",
    "bias_transformation",
    "bilevel",
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
    "named",
    "nil",
    "proto_maml",
    "protonet",
    "r2d2",
    "reptile",
    "scratch",
    "sign_maml",
    "zeroing",
]
