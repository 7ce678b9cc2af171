"""Which networks of which packages `families.py` tries, and what each calls its sizes."""

from collections.abc import Iterator

from _families_networks import (
    DECODER,
    IDS,
    IMAGE,
    LARGER,
    MOE,
    PAIR,
    PAST,
    SEQ2SEQ,
    SERIES,
    SIZES,
    SPEECH,
    STAGES,
    T5,
    TEXT,
    VIDEO,
    VISION,
    VOCABULARY,
    WAVE,
    Entry,
    diffusion,
    hugging_face,
    medical,
    on_graphs,
    segmentation,
    yolo,
)  # fmt: skip

__all__ = ["catalogue"]

HF = hugging_face
RESNET = ("ResNetConfig", STAGES | {"out_features": ["stage2", "stage3", "stage4"]})
LABELS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DETECT = {
    "use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False, "d_model": 32, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "num_queries": 8,
}  # fmt: skip


def catalogue() -> Iterator[Entry]:
    """Every network, package by package."""
    yield from _text()
    yield from _decoders()
    yield from _others()
    yield from _vision()
    yield from _detection()
    yield from _sound()
    yield from _several()
    for name, takes, own in DIFFUSERS:
        yield diffusion(name, takes, own)
    for name in ("GCN", "GraphSAGE", "GAT", "GIN", "PNA", "EdgeCNN"):
        yield on_graphs(name)
    for name, own in MONAI:
        yield medical(name, own)
    for name in SMP:
        for encoder in ("resnet18", "mobilenet_v2"):
            if encoder == "resnet18" or name in ("Unet", "FPN", "Linknet"):
                yield segmentation(name, encoder)
    for name in YOLO:
        yield yolo(name)


def _text() -> Iterator[Entry]:
    kind = "text encoder"
    yield from HF(kind, TEXT, SIZES, "BertForSequenceClassification RobertaForMaskedLM AlbertForSequenceClassification")
    yield from HF(
        kind, TEXT, SIZES, "ElectraForSequenceClassification MPNetForMaskedLM RoFormerForMaskedLM", embedding_size=32
    )
    yield from HF(kind, TEXT, SIZES, "DistilBertForMaskedLM", dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    yield from HF(
        kind,
        TEXT,
        SIZES,
        "DebertaForSequenceClassification DebertaV2ForSequenceClassification",
        relative_attention=True,
    )
    yield from HF(
        kind,
        TEXT,
        SIZES,
        "XLMRobertaModel CamembertForMaskedLM MegatronBertModel RemBertModel SqueezeBertModel",
        embedding_size=32,
    )
    yield from HF(kind, IDS, SIZES, "FNetForMaskedLM NystromformerModel", num_landmarks=5, segment_means_seq_len=10)
    yield from HF(kind, TEXT, SIZES, "MobileBertModel", embedding_size=32, intra_bottleneck_size=16)
    yield from HF(
        kind,
        TEXT,
        SIZES,
        "ModernBertForMaskedLM EuroBertModel EsmModel",
        position_embedding_type="rotary",
        cls_token_id=1,
        sep_token_id=2,
    )
    yield from HF(kind, TEXT, SIZES, "LongformerForMaskedLM", attention_window=4)
    yield from HF(kind, TEXT, SIZES, "BigBirdModel", attention_type="original_full")
    yield from HF(kind, TEXT, LABELS, "XLNetLMHeadModel", d_model=32, n_layer=2, n_head=4, d_inner=48)
    yield from HF(
        kind,
        TEXT,
        LABELS,
        "FunnelModel",
        d_model=32,
        d_head=8,
        n_head=4,
        d_inner=48,
        block_sizes=[1, 1],
        num_decoder_layers=1,
    )


def _decoders() -> Iterator[Entry]:
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48, "n_ctx": 64, "rotary_dim": 4}
    for kind, cached in (("decoder", {}), ("decoder with cache", {"use_cache": True})):
        yield from HF(kind, IDS, DECODER, "GPT2LMHeadModel GPTJForCausalLM CodeGenForCausalLM", **gpt, **cached)
        yield from HF(
            kind, IDS, DECODER, "LlamaForCausalLM MistralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM", **cached
        )
        yield from HF(
            kind, IDS, DECODER, "GPTNeoXForCausalLM PhiForCausalLM", rotary_pct=0.5, partial_rotary_factor=0.5, **cached
        )
    kind = "decoder"
    yield from HF(
        kind,
        IDS,
        DECODER,
        "GPTNeoForCausalLM",
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
    )
    yield from HF(kind, IDS, DECODER, "OPTForCausalLM", ffn_dim=48, word_embed_proj_dim=32)
    yield from HF(kind, IDS, SIZES, "FalconForCausalLM", use_cache=False)
    yield from HF(kind, IDS, DECODER, "BloomForCausalLM", n_layer=2, n_head=4)
    yield from HF(kind, IDS, DECODER, "MptForCausalLM", d_model=32, n_layers=2, n_heads=4, max_seq_len=64)
    yield from HF(kind, IDS, DECODER, "XGLMForCausalLM", d_model=32, ffn_dim=48, num_layers=2, attention_heads=4)
    yield from HF(
        kind, IDS, DECODER, "GemmaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Phi3ForCausalLM StableLmForCausalLM"
    )
    yield from HF(
        kind,
        IDS,
        DECODER,
        "CohereForCausalLM OlmoForCausalLM Olmo2ForCausalLM Starcoder2ForCausalLM GraniteForCausalLM SmolLM3ForCausalLM",
    )
    yield from HF(
        kind,
        IDS,
        DECODER,
        "BioGptForCausalLM GPTBigCodeForCausalLM",
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=48,
        n_positions=64,
    )


def _others() -> Iterator[Entry]:
    kind = "encoder-decoder"
    yield from HF(
        kind,
        PAIR,
        T5,
        "T5ForConditionalGeneration MT5ForConditionalGeneration UMT5ForConditionalGeneration LongT5ForConditionalGeneration",
    )
    yield from HF(
        kind,
        PAIR,
        SEQ2SEQ,
        "BartForConditionalGeneration MBartForConditionalGeneration PegasusForConditionalGeneration",
    )
    yield from HF(
        kind, PAIR, SEQ2SEQ, "MarianMTModel M2M100ForConditionalGeneration BlenderbotForConditionalGeneration"
    )
    yield from HF(kind, PAIR, SEQ2SEQ, "LEDForConditionalGeneration", attention_window=4)
    yield from HF(
        kind,
        PAIR,
        LABELS,
        "ProphetNetForConditionalGeneration",
        hidden_size=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        use_cache=False,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        ngram=2,
    )
    kind = "encoder-decoder with cache"
    yield from HF(kind, PAIR, T5, "T5ForConditionalGeneration", use_cache=True)
    yield from HF(kind, PAIR, SEQ2SEQ, "BartForConditionalGeneration", use_cache=True)
    kind = "mixture of experts"
    yield from HF(
        kind,
        IDS,
        MOE,
        "MixtralForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM OlmoeForCausalLM PhimoeForCausalLM GptOssForCausalLM GraniteMoeForCausalLM",
    )
    yield from HF(
        kind,
        IDS,
        MOE,
        "DeepseekV3ForCausalLM",
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        head_dim=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        num_key_value_heads=4,
    )
    yield from HF(
        kind,
        PAIR | TEXT,
        T5,
        "SwitchTransformersForConditionalGeneration",
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    )
    kind = "state space"
    yield from HF(kind, IDS, DECODER, "MambaForCausalLM FalconMambaForCausalLM", state_size=4, time_step_rank=4)
    yield from HF(
        kind, IDS, DECODER, "Mamba2ForCausalLM", state_size=4, num_heads=8, head_dim=8, n_groups=1, chunk_size=4
    )
    yield from HF(
        kind,
        IDS,
        MOE,
        "JambaForCausalLM",
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
    )
    yield from HF(
        kind,
        IDS,
        DECODER,
        "BambaForCausalLM",
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=4,
        mamba_n_groups=1,
        mamba_chunk_size=4,
        attn_layer_indices=[1],
    )
    yield from HF(kind, IDS, DECODER, "RwkvForCausalLM", context_length=64)
    yield from HF(
        kind, IDS, DECODER, "RecurrentGemmaForCausalLM", lru_width=32, attention_window_size=8, num_hidden_layers=3
    )
    yield from HF(
        kind,
        IDS,
        DECODER,
        "Lfm2ForCausalLM",
        layer_types=["conv", "full_attention"],
        block_ff_dim=48,
        block_multiple_of=8,
    )


def _vision() -> Iterator[Entry]:
    kind = "vision"
    yield from HF(
        kind,
        IMAGE,
        VISION,
        "ViTForImageClassification DeiTForImageClassification BeitForImageClassification Dinov2ForImageClassification",
    )
    yield from HF(kind, IMAGE, VISION, "Dinov2WithRegistersModel IJepaModel ViTMSNModel", mlp_ratio=2)
    swin = {"patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
    yield from HF(
        kind,
        IMAGE,
        {"image_size": 32},
        "SwinForImageClassification Swinv2ForImageClassification DonutSwinModel",
        **swin,
    )
    yield from HF(
        kind,
        LARGER,
        STAGES,
        "ResNetForImageClassification RegNetForImageClassification BitForImageClassification",
        num_groups=4,
        groups_width=8,
    )
    yield from HF(kind, LARGER, STAGES, "ConvNextForImageClassification ConvNextV2ForImageClassification")
    yield from HF(kind, LARGER, STAGES, "PoolFormerForImageClassification")
    yield from HF(
        kind,
        LARGER,
        {},
        "MobileNetV1ForImageClassification MobileNetV2ForImageClassification",
        depth_multiplier=0.25,
        min_depth=8,
        image_size=64,
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "MobileViTForImageClassification",
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 12, 16, 16, 16, 32],
        image_size=64,
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "SegformerForSemanticSegmentation PvtV2ForImageClassification",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[2, 2, 2, 2],
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "GLPNForDepthEstimation",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
    )
    yield from HF(
        kind, LARGER, {}, "CvtForImageClassification", embed_dim=[16, 32, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "LevitForImageClassification",
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        image_size=64,
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "HieraForImageClassification",
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        image_size=[64, 64],
        mlp_ratio=2.0,
    )
    yield from HF(kind, LARGER, {}, "FocalNetForImageClassification", embed_dim=16, depths=[1, 1, 1, 1], image_size=64)
    yield from HF(
        kind,
        LARGER,
        {},
        "EfficientNetForImageClassification",
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
        image_size=64,
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "SwiftFormerForImageClassification",
        depths=[1, 1, 1, 1],
        embed_dims=[16, 16, 24, 32],
        image_size=64,
    )
    yield from HF(
        kind,
        IMAGE,
        VISION,
        "DPTForDepthEstimation",
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
    )
    yield from HF(
        kind,
        IMAGE,
        {},
        "Swin2SRForImageSuperResolution",
        image_size=32,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
        upscale=2,
    )
    yield from HF(kind, VIDEO, VISION, "VideoMAEForVideoClassification", num_frames=4, tubelet_size=2)
    yield from HF(
        kind,
        VIDEO,
        VISION,
        "TimesformerForVideoClassification VivitForVideoClassification",
        num_frames=4,
        tubelet_size=[2, 8, 8],
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "SuperPointForKeypointDetection",
        encoder_hidden_sizes=[16, 16, 24, 24],
        decoder_hidden_size=32,
        keypoint_decoder_dim=65,
        descriptor_decoder_dim=32,
    )


def _detection() -> Iterator[Entry]:
    kind = "detection"
    yield from HF(kind, IMAGE, VISION, "YolosForObjectDetection", num_detection_tokens=6, image_size=[32, 32])
    yield from HF(
        kind,
        LARGER,
        DETECT,
        "DetrForObjectDetection ConditionalDetrForObjectDetection TableTransformerForObjectDetection",
        backbone_config=RESNET,
    )
    yield from HF(kind, LARGER, DETECT, "DabDetrForObjectDetection", hidden_size=32, backbone_config=RESNET)
    yield from HF(
        kind, LARGER, DETECT, "DeformableDetrForObjectDetection", num_feature_levels=3, backbone_config=RESNET
    )
    yield from HF(
        kind,
        LARGER,
        DETECT,
        "RTDetrForObjectDetection",
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 40],
        decoder_in_channels=[32, 32, 32],
        num_denoising=0,
        backbone_config=("RTDetrResNetConfig", RESNET[1]),
    )
    yield from HF(
        kind,
        LARGER,
        {},
        "UperNetForSemanticSegmentation",
        hidden_size=32,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        backbone_config=("ConvNextConfig", STAGES | {"out_features": ["stage1", "stage2", "stage3", "stage4"]}),
    )


def _sound() -> Iterator[Entry]:
    kind = "audio"
    yield from HF(
        kind,
        WAVE,
        SPEECH,
        "Wav2Vec2ForCTC HubertForCTC WavLMForCTC UniSpeechForCTC Data2VecAudioForCTC Wav2Vec2ConformerForCTC SEWForCTC",
        squeeze_factor=1,
    )
    yield from HF(
        kind,
        {"input_features": ("normal", 20, 64), "decoder_input_ids": ("tokens", 7)},
        SEQ2SEQ,
        "WhisperForConditionalGeneration",
        num_mel_bins=20,
        max_source_positions=32,
        max_target_positions=32,
    )
    yield from HF(
        kind,
        {"input_features": ("normal", 40, 20), "decoder_input_ids": ("tokens", 7)},
        SEQ2SEQ,
        "Speech2TextForConditionalGeneration",
        input_feat_per_channel=20,
        max_source_positions=64,
        max_target_positions=32,
        conv_channels=32,
    )
    yield from HF(
        kind,
        {"input_values": ("normal", 40, 32)},
        SIZES,
        "ASTForAudioClassification",
        max_length=40,
        num_mel_bins=32,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
    )
    yield from HF(
        kind,
        {"input_values": ("normal", 1, 640)},
        {},
        "EncodecModel",
        num_filters=8,
        hidden_size=16,
        codebook_size=16,
        upsampling_ratios=[4, 2],
        num_lstm_layers=1,
    )
    kind = "time series"
    yield from HF(
        kind, PAST, SERIES, "TimeSeriesTransformerForPrediction InformerForPrediction AutoformerForPrediction"
    )
    series = {"past_values": ("normal", 16, 3)}
    yield from HF(
        kind,
        series,
        {},
        "PatchTSTForPrediction PatchTSMixerForPrediction",
        context_length=16,
        prediction_length=4,
        num_input_channels=3,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_hidden_layers=2,
        num_layers=2,
        num_attention_heads=4,
        ffn_dim=24,
    )


def _several() -> Iterator[Entry]:
    kind = "multimodal"
    both = IDS | IMAGE
    text, seen = SIZES | {"projection_dim": 16}, VISION | {"projection_dim": 16}
    for name, own in (("CLIP", {}), ("Siglip", {}), ("ChineseCLIP", {}), ("Blip", {}), ("AltCLIP", {})):
        parts = {"text_config": (f"{name}TextConfig", text), "vision_config": (f"{name}VisionConfig", seen)}
        yield from HF(kind, both, own | {"projection_dim": 16}, f"{name}Model", **parts)
    yield from HF(kind, both, VISION, "ViltForQuestionAnswering")
    yield from HF(
        kind,
        IDS | {"bbox": ("boxes", 10)},
        SIZES,
        "LayoutLMForTokenClassification",
        max_2d_position_embeddings=256,
        coordinate_size=5,
        shape_size=6,
    )
    yield from HF(
        kind,
        IDS | {"bbox": ("boxes", 10)} | IMAGE,
        SIZES,
        "LayoutLMv3ForTokenClassification",
        input_size=32,
        patch_size=8,
        coordinate_size=5,
        shape_size=6,
        max_2d_position_embeddings=256,
    )
    yield from HF(
        kind, IDS | {"bbox": ("boxes", 10)}, SIZES, "LiltModel", hidden_size=48, max_2d_position_embeddings=256
    )
    yield from HF(kind, IDS | {"bbox": ("boxes", 10)}, SIZES, "BrosModel", hidden_size=64)
    yield from HF(kind, IDS | {"visual_embeds": ("normal", 4, 20)}, SIZES, "VisualBertModel", visual_embedding_dim=20)
    yield from HF(kind, both, DECODER, "GitForCausalLM", vision_config=("GitVisionConfig", VISION))
    yield from HF(
        kind,
        IDS | {"visual_feats": ("normal", 4, 20), "visual_pos": ("normal", 4, 4)},
        SIZES,
        "LxmertModel",
        visual_feat_dim=20,
        l_layers=1,
        x_layers=1,
        r_layers=1,
    )


IMAGE8 = {"sample": ("normal", 4, 8, 8)}
TIMED = IMAGE8 | {"timestep": ("index", 100)}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
WORDS = {"encoder_hidden_states": ("normal", 5, 16)}
PICTURE = {"sample": ("normal", 3, 16, 16)}
DIFFUSERS = (
    ("UNet2DModel", TIMED, UNET | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8}),
    ("UNet2DConditionModel", TIMED | WORDS, UNET | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 4}),
    ("AutoencoderKL", PICTURE, {"block_out_channels": (16, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4}),
    ("AutoencoderTiny", PICTURE, {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16), "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}),
    ("VQModel", PICTURE, {"block_out_channels": (16, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "num_vq_embeddings": 16}),
    ("DiTTransformer2DModel", {"hidden_states": ("normal", 4, 8, 8), "timestep": ("index", 100), "class_labels": ("index", 10)}, {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "num_layers": 2, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_num_groups": 4}),
    ("PixArtTransformer2DModel", {"hidden_states": ("normal", 4, 8, 8), "timestep": ("index", 100), "encoder_hidden_states": ("normal", 5, 16)}, {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "num_layers": 2, "sample_size": 8, "caption_channels": 16, "cross_attention_dim": 32, "use_additional_conditions": False}),
    ("SD3Transformer2DModel", {"hidden_states": ("normal", 4, 8, 8), "timestep": ("index", 100), "encoder_hidden_states": ("normal", 5, 16), "pooled_projections": ("normal", 24)}, {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "num_layers": 2, "sample_size": 8, "patch_size": 2, "joint_attention_dim": 16, "caption_projection_dim": 32, "pooled_projection_dim": 24}),
    ("PriorTransformer", {"hidden_states": ("normal", 16), "timestep": ("index", 100), "proj_embedding": ("normal", 16), "encoder_hidden_states": ("normal", 5, 16)}, {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "embedding_dim": 16, "num_embeddings": 5, "additional_embeddings": 4}),
)  # fmt: skip

VOLUME = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
LEVELS = {"channels": (8, 16, 32), "strides": (2, 2)}
MONAI = (
    ("UNet", VOLUME | LEVELS | {"num_res_units": 1}),
    ("AttentionUnet", VOLUME | LEVELS),
    ("BasicUNet", VOLUME | {"features": (8, 8, 16, 16, 32, 8)}),
    ("BasicUNetPlusPlus", VOLUME | {"features": (8, 8, 16, 16, 32, 8)}),
    ("DynUNet", VOLUME | {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}),
    ("SegResNet", VOLUME | {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}),
    ("VNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    ("HighResNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    ("UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 16, "feature_size": 8, "hidden_size": 32, "mlp_dim": 48, "num_heads": 4}),
    ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}),
    ("ViT", {"in_channels": 1, "img_size": (16,) * 3, "patch_size": (8,) * 3, "hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 4, "classification": True}),
    ("DenseNet", VOLUME | {"init_features": 8, "growth_rate": 8, "block_config": (2, 2)}),
    ("SENet", {"spatial_dims": 3, "in_channels": 1, "num_classes": 2, "block": "se_bottleneck", "layers": (1, 1, 1, 1), "groups": 1, "reduction": 4}),
    ("AutoEncoder", VOLUME | LEVELS | {"strides": (2, 2, 2)}),
)  # fmt: skip

SMP = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Linknet",
    "MAnet",
    "PAN",
    "UPerNet",
    "Segformer",
)
YOLO = (
    "yolov3-tiny",
    "yolov5n",
    "yolov6n",
    "yolov8n",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-cls",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo12n",
    "yolo26n",
)
