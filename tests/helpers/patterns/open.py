"""Patterns that do not come out as they should yet, by reason.

Their tests must fail: delete a name as soon as its test says that it passes.
"""

__all__ = ["OPEN"]

OPEN: dict[str, tuple[str, ...]] = {
    "a product over a stack of matrices has no rule": ("mixture_of_experts-dims",),
    "a layer over positions pins them": ("token_mixing-position",),
    "a constant that depends on the size of the image counts as a signal": ("grid_of_coordinates",),
    "the branch or the shuffle does not fit what is left": ("chunk_into_unequal_survivors-whole",),
    "a parameter beside a branch is no module that could be replaced": (
        "branch_scaled_by_zero-parameter",
        "branch_scaled_by_zero-vector",
    ),
    "no rule for max_unpool2d": ("max_pooling_with_indices",),
    "a reduction over channels pins them, whatever it computes": ("unit_length_over_channels-l2",),
    "neither tracer follows a scripted module": ("scripted_module",),
    "no rule for a product with a parameter that is not a layer's": ("layers_of_ones_own-constant",),
    "a computed weight pins its channels": ("tied_weights-transposed",),
    "no rule for this kind of product": (
        "dead_attention_branch",
        "matmul_of_two_features-row",
    ),
    "the statistics of a batch say varies where they are those of zeros": (
        "batch_norm_without_scale-batch-statistics",
    ),
    "cosine similarity of channels": ("unit_length_over_channels-cosine",),
    "a sampled position may lie outside, where nothing is read": ("positions_chosen_by_data-grid-sample",),
}
