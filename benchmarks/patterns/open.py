"""Patterns that do not come out as they should yet, by reason.

Their tests must fail: delete a name as soon as its test says that it passes.
"""

__all__ = ["OPEN"]

OPEN: dict[str, tuple[str, ...]] = {
    "kept, and the report gives no reason": (
        "grouped_queries-q-heads",
        "mixture_of_experts-dims",
        "projection_shortcut-main",
        "projection_shortcut-shortcut",
        "layer_scale-scale",
        "token_mixing-position",
        "masked_weight",
        "no_batch_axis-image",
        "grid_of_coordinates",
        "rows_of_an_embedding_that_the_example_does_not_use",
        "experts_that_the_example_does_not_choose",
    ),
    "the branch or the shuffle does not fit what is left": ("chunk_into_unequal_survivors-whole",),
    "a parameter beside a branch is no module that could be replaced": (
        "branch_scaled_by_zero-parameter",
        "branch_scaled_by_zero-vector",
    ),
    "the taint rule says varies where the value is constant": ("positions_chosen_by_data-masked-fill",),
    "no rule for max_unpool2d": ("max_pooling_with_indices",),
    "a reduction over channels pins them, whatever it computes": (
        "new_axes-stack-sum",
        "new_axes-stack-first",
        "unit_length_over_channels-l2",
    ),
    "neither tracer follows a scripted module": ("scripted_module",),
    "no rule for a product with a parameter that is not a layer's": ("layers_of_ones_own-constant",),
    "a computed weight pins its channels": (
        "tied_weights-transposed",
        "standardised_weight-zero",
        "standardised_weight-constant",
        "standardised_weight-unread",
    ),
    "no rule for this kind of product": (
        "dead_attention_branch",
        "matmul_of_two_features-row",
    ),
    "a layer that the example does not reach may read them": (
        "new_axes-unbind",
        "new_axes-expand",
        "new_axes-repeat",
        "new_axes-repeat-interleave",
    ),
    "an operator over the channels of an image without a batch axis, or over all positions": (
        "instance_norm-plain",
        "batch_norm_without_scale-batch-statistics",
    ),
    "cosine similarity of channels": ("unit_length_over_channels-cosine",),
    "a sampled position may lie outside, where nothing is read": ("positions_chosen_by_data-grid-sample",),
}
