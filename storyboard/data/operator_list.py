"""Which of Data-Juicer's operators a recipe may name, judged by reading the source of 1.6.1.

A recipe is a file that people pass around, so what is not listed as safe does not run unless
``Settings.allow_operators`` names it. Safe is what computes on captions and pictures alone: it runs
no code of the recipe's, starts no program, asks no network, loads no pickle, writes nothing but the
picture it maps, and needs time and memory that the row bounds.

A test compares the lists with the operators that are installed: a new one is refused until it was
read and listed here.
"""

import difflib


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SAFE_FOR_CAPTIONS = _names("""
    alphanumeric_filter average_line_length_filter character_repetition_filter
    flagged_words_filter general_field_filter maximum_line_length_filter special_characters_filter
    specified_field_filter specified_numeric_field_filter stopwords_filter text_length_filter
    word_repetition_filter words_num_filter

    document_deduplicator document_line_deduplicator document_minhash_deduplicator
    document_simhash_deduplicator

    chinese_convert_mapper clean_copyright_mapper clean_email_mapper clean_html_mapper
    clean_ip_mapper clean_links_mapper fix_unicode_mapper pii_redaction_mapper
    punctuation_normalization_mapper remove_bibliography_mapper remove_comments_mapper
    remove_header_mapper remove_long_words_mapper remove_non_chinese_character_mapper
    remove_repeat_sentences_mapper remove_specific_chars_mapper
    remove_words_with_incorrect_substrings_mapper replace_content_mapper
    whitespace_normalization_mapper
    """)
# Those with a model take it from a local folder or the cache: inside nothing is asked of a hub.
SAFE_FOR_PICTURES = _names("""
    image_caption_filter image_content_filter image_detail_filter image_near_deduplicator
    image_sharpness_filter image_style_filter image_text_line_filter

    image_aesthetics_filter image_aspect_ratio_filter image_face_count_filter
    image_face_ratio_filter image_nsfw_filter image_shape_filter image_size_filter
    image_subplot_filter image_text_matching_filter image_text_similarity_filter
    image_watermark_filter

    image_deduplicator

    image_blur_mapper image_face_blur_mapper
    """)
SAFE = SAFE_FOR_CAPTIONS | SAFE_FOR_PICTURES
# These look for a token that says where in a text its picture stands, or measure nothing.
PICTURE_IN_TEXT = _names("image_text_matching_filter image_text_similarity_filter")
NEEDS_OPENCV = _names(
    "image_face_blur_mapper image_face_count_filter image_face_ratio_filter image_subplot_filter"
)

_UNSAFE = {
    "runs code or other operators that stand in its parameters": """
        fused_sequential_batch_op general_fused_op python_file_mapper python_lambda_mapper
        imgdiff_difference_area_generator_mapper imgdiff_difference_caption_generator_mapper
        """,
    "starts other programs": """
        audio_ffmpeg_wrapped_mapper export_to_lerobot_mapper image_mmpose_mapper
        image_sam_3d_body_mapper vggt_mapper
        """,
    "sends rows to a service, or fetches what a row names": """
        agent_insight_llm_mapper agent_skill_insight_mapper agent_tool_relevance_mapper
        calibrate_qa_mapper calibrate_query_mapper calibrate_response_mapper
        detect_character_attributes_mapper detect_character_locations_mapper
        detect_main_character_mapper dialog_clarification_quality_mapper
        dialog_coreference_mapper dialog_error_recovery_mapper dialog_intent_detection_mapper
        dialog_memory_consistency_mapper dialog_non_repetition_mapper dialog_proactivity_mapper
        dialog_sentiment_detection_mapper dialog_sentiment_intensity_mapper
        dialog_topic_detection_mapper dialog_topic_shift_mapper download_file_mapper
        extract_entity_attribute_mapper extract_entity_relation_mapper extract_event_mapper
        extract_keyword_mapper extract_nickname_mapper extract_support_text_mapper
        generate_qa_from_examples_mapper generate_qa_from_text_mapper
        human_preference_annotation_mapper image_tagging_vlm_mapper llm_analysis_filter
        llm_condition_filter llm_difficulty_score_filter llm_extract_mapper
        llm_quality_score_filter llm_task_relevance_filter optimize_prompt_mapper
        optimize_qa_mapper optimize_query_mapper optimize_response_mapper pair_preference_mapper
        pii_llm_suspect_mapper relation_identity_mapper s3_download_file_mapper
        s3_upload_file_mapper text_chunk_mapper text_embd_similarity_filter
        text_tagging_by_prompt_mapper
        """,
    "downloads a model, or asks whether to run code that came with one": """
        image_captioning_mapper image_diffusion_mapper image_remove_background_mapper
        in_context_influence_filter instruction_following_difficulty_filter
        language_id_score_filter llm_perplexity_filter mllm_mapper perplexity_filter
        query_intent_detection_mapper query_sentiment_detection_mapper
        query_topic_detection_mapper sdxl_prompt2prompt_mapper sentence_augmentation_mapper
        text_action_filter text_entity_dependency_filter text_pair_similarity_filter
        token_num_filter
        """,
    "loads a pickle, which can run code": """
        image_detection_yolo_mapper image_segment_mapper image_tagging_mapper
        phrase_grounding_recall_filter sentence_split_mapper
        """,
    "opens files that a caption names": "latex_merge_tex_mapper",
    "takes time or memory that a caption's length does not bound": """
        expand_macro_mapper remove_table_text_mapper
        """,
    "makes several rows of one, which would count a picture more than once": """
        latex_figure_context_extractor_mapper nlpaug_en_mapper nlpcda_zh_mapper
        """,
    "reads fields that captioned pictures do not have": """
        agent_bad_case_signal_mapper agent_dialog_normalize_mapper agent_tool_type_mapper
        agent_trace_coherence_mapper document_minhash_deduplicator_with_uid
        extract_tables_from_html_mapper image_pair_similarity_filter suffix_filter
        tool_success_tagger_mapper usage_counter_mapper
        """,
    "runs in a Ray cluster": """
        ray_bts_minhash_cpp_deduplicator ray_bts_minhash_deduplicator
        ray_bts_minhash_deduplicator_with_uid ray_document_deduplicator ray_image_deduplicator
        ray_video_deduplicator
        """,
    "neither filters, deduplicates nor maps single rows": """
        entity_attribute_aggregator meta_tags_aggregator most_relevant_entities_aggregator
        nested_aggregator key_value_grouper naive_grouper naive_reverse_grouper
        llm_ray_vllm_engine_pipeline ray_repartition_pipeline vlm_ray_vllm_engine_pipeline
        frequency_specified_field_selector image_ohem_selector random_selector
        range_specified_field_selector tags_specified_field_selector topk_specified_field_selector
        """,
}
_MEDIA = "is for videos and sounds, starts programs or loads what it downloads"
UNREAD = "is not on the list of operators that were read and found safe"
UNSAFE = {name: reason for reason, names in _UNSAFE.items() for name in _names(names)}

# Parameters by which a safe operator would do what unsafe ones do.
UNSAFE_PARAMETERS = {
    "alphanumeric_filter": {"tokenization": "downloads a tokenizer"},
    "document_minhash_deduplicator": {"tokenizer_model": "loads or downloads a tokenizer"},
    "flagged_words_filter": {"tokenization": "downloads a tokenizer"},
    "remove_repeat_sentences_mapper": {"tokenizer": "is code that would run"},
    "remove_words_with_incorrect_substrings_mapper": {"tokenization": "downloads a tokenizer"},
    "stopwords_filter": {"tokenization": "downloads a tokenizer"},
    "word_repetition_filter": {"tokenization": "downloads a tokenizer"},
    "words_num_filter": {"tokenization": "downloads a tokenizer"},
}
# Lists of words that are downloaded unless a folder has them: parameter, and part of a file's name.
WORD_LISTS = {
    "flagged_words_filter": ("flagged_words_dir", "flagged_words"),
    "stopwords_filter": ("stopwords_dir", "stopwords"),
}
# Networks of this repository that operators read pictures by: what they drop depends on them.
_CLASSIFIER = "models/mini-classifier/model.safetensors"
NETWORKS = {
    "image_caption_filter": _CLASSIFIER,
    "image_style_filter": _CLASSIFIER,
    "image_text_line_filter": "models/mini-text-detector/model.safetensors",
}
# Bounds that the operators do not check themselves: below or above, they take time without end, or
# fail and keep the picture all the same.
LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("character_repetition_filter", "rep_len"): (1, 1000),
    ("document_minhash_deduplicator", "num_permutations"): (1, 1024),
    ("document_minhash_deduplicator", "num_bands"): (1, 1024),
    ("document_minhash_deduplicator", "num_rows_per_band"): (1, 1024),
    ("document_minhash_deduplicator", "window_size"): (1, 1000),
    ("document_simhash_deduplicator", "window_size"): (1, 1000),
    ("document_simhash_deduplicator", "num_blocks"): (1, 64),
    ("document_simhash_deduplicator", "hamming_distance"): (1, 63),
    ("image_blur_mapper", "p"): (0, 1),
    ("image_blur_mapper", "radius"): (0, 1000),
    ("image_face_blur_mapper", "radius"): (0, 1000),
    ("image_caption_filter", "min_agreement"): (0, 1),
    ("image_caption_filter", "min_match"): (0, 1),
    ("image_content_filter", "min_content"): (0, 1),
    ("image_detail_filter", "min_detail"): (0, 1),
    ("image_detail_filter", "min_detail_across"): (0, 1),
    ("image_near_deduplicator", "max_difference"): (0, 255),
    ("image_near_deduplicator", "max_exposure"): (0, 255),
    ("image_sharpness_filter", "min_sharpness"): (0, 1),
    ("image_style_filter", "min_agreement"): (0, 1),
    ("image_style_filter", "min_match"): (0, 1),
    ("image_style_filter", "min_style_probability"): (0, 1),
    ("image_style_filter", "min_style_share"): (0, 1),
    ("image_text_line_filter", "max_text_line"): (0, 1),
    ("image_subplot_filter", "hough_threshold"): (1, 10**6),
    ("image_subplot_filter", "min_line_length"): (1, 10**6),
    ("image_subplot_filter", "min_horizontal_lines"): (1, 10**6),
    ("image_subplot_filter", "min_vertical_lines"): (1, 10**6),
    ("word_repetition_filter", "rep_len"): (1, 1000),
}


def why_unsafe(operator: str) -> str | None:
    """Why ``operator`` does not run unless the settings allow it; None where it is safe."""
    if operator in SAFE:
        return None
    if operator.startswith(("video_", "audio_")):
        return UNSAFE.get(operator, _MEDIA)
    return UNSAFE.get(operator, UNREAD)


def similar_to(operator: str) -> str | None:
    """The listed operator that one which is not listed was probably meant to be."""
    if operator in SAFE or operator in UNSAFE or operator.startswith(("video_", "audio_")):
        return None
    similar = difflib.get_close_matches(operator, [*SAFE, *UNSAFE], 1, cutoff=0.8)
    return similar[0] if similar else None
