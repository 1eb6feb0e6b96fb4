"""Functions of Athena (engine version 3, Trino) that DuckDB lacks: macros for some, and the names of the others."""

from __future__ import annotations

# Executed before a query. Of equal keys Trino keeps one, where DuckDB raises an error.
MACROS = (
    "create macro map_agg(k, v) as map(list(k) filter (k is not null), list(v) filter (k is not null))",
    "create macro array_union(a, b) as list_distinct(list_concat(a, b))",
    "create macro array_except(a, b) as list_filter(list_distinct(a), lambda x: not list_contains(b, x))",
    "create macro arrays_overlap(a, b) as list_has_any(a, b)",
    "create macro day_of_month(d) as day(d)",
    "create macro day_of_year(d) as dayofyear(d)",
    "create macro day_of_week(d) as isodow(d)",
    "create macro week_of_year(d) as weekofyear(d)",
    "create macro year_of_week(d) as isoyear(d)",
    "create macro codepoint(c) as unicode(c)",
    "create macro is_finite(x) as isfinite(x)",
    "create macro is_nan(x) as isnan(x)",
    "create macro is_infinite(x) as isinf(x)",
    "create macro e() as exp(1.0)",
    "create macro truncate(x) as trunc(x)",
)

ATHENA_FUNCTIONS = frozenset(
    """
    all_match any_match approx_distinct approx_most_frequent approx_percentile approx_set array_agg array_average
    array_distinct array_except array_first array_histogram array_intersect array_join array_last array_max array_min
    array_position array_remove array_sort array_sum array_union arrays_overlap at_timezone bing_tile
    bing_tile_at bing_tiles_around bit_count bitwise_and bitwise_and_agg bitwise_left_shift bitwise_not bitwise_or
    bitwise_or_agg bitwise_right_shift bitwise_xor bool_and bool_or cardinality cbrt char2hexint checksum
    classify codepoint color combinations concat_ws contains convex_hull_agg corr cosine_similarity count_if covar_pop
    covar_samp crc32 current_timezone date_add date_diff date_format date_parse day_of_month day_of_week day_of_year
    dense_rank element_at empty_approx_set entropy evaluate_classifier_predictions every filter flatten format
    format_datetime format_number from_base from_base32 from_base64 from_base64url from_big_endian_32
    from_big_endian_64 from_encoded_polyline from_geojson_geometry from_hex from_ieee754_32 from_ieee754_64
    from_iso8601_date from_iso8601_timestamp from_iso8601_timestamp_nanos from_unixtime from_unixtime_nanos from_utf8
    geometric_mean geometry_union great_circle_distance hamming_distance hash_counts histogram hmac_md5 hmac_sha1
    hmac_sha256 hmac_sha512 human_readable_seconds index infinity intersection_cardinality inverse_beta_cdf
    inverse_normal_cdf is_finite is_infinite is_json_scalar is_nan jaccard_index json_array_contains json_array_get
    json_array_length json_extract json_extract_scalar json_format json_parse json_query json_size json_value
    kurtosis last_day_of_month learn_classifier learn_regressor levenshtein_distance line_interpolate_point
    line_locate_point listagg ln log10 log2 luhn_check make_set_digest map_agg map_concat map_entries map_filter
    map_from_entries map_keys map_union map_values map_zip_with max_by md5 merge merge_set_digest millisecond min_by
    mod multimap_agg multimap_from_entries murmur3 nan ngrams none_match normal_cdf normalize numeric_histogram
    objectid_timestamp parse_data_size parse_datetime parse_duration parse_presto_data_size qdigest_agg
    quantile_at_value
    rand random reduce reduce_agg regexp_count regexp_extract regexp_extract_all regexp_like regexp_position
    regexp_replace regexp_split regr_intercept regr_slope render reverse rgb sequence sha1 sha256 sha512 shuffle
    simplify_geometry skewness slice soundex spatial_partitions split split_part split_to_map split_to_multimap
    spooky_hash_v2_32 spooky_hash_v2_64 st_area st_astext st_contains st_distance st_geometryfromtext st_point st_x st_y
    starts_with strpos tdigest_agg timestamp_objectid timezone timezone_hour timezone_minute to_base to_base32
    to_base64 to_base64url to_big_endian_32 to_big_endian_64 to_char to_date to_encoded_polyline to_geojson_geometry
    to_hex to_ieee754_32 to_ieee754_64 to_iso8601 to_milliseconds to_spherical_geography to_timestamp to_unixtime
    to_utf8 transform transform_keys transform_values translate trim_array truncate try typeof url_decode url_encode
    url_extract_fragment url_extract_host url_extract_parameter url_extract_path url_extract_port
    url_extract_protocol url_extract_query uuid value_at_quantile values_at_quantiles week_of_year width_bucket
    wilson_interval_lower wilson_interval_upper with_timezone word_stem xxhash64 year_of_week zip zip_with
    """.split()  # noqa: SIM905 - quoted, the words are hard to read
)
