"""The page's look: Gradio's own theme with our colours and the fonts that every system has."""

from __future__ import annotations

import gradio as gr

_FONTS = ("Inter", "system-ui", "Segoe UI", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def deck_theme() -> gr.themes.Base:
    """Plain font names: a ``GoogleFont`` would be asked for on the network."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=list(_FONTS),
        font_mono=list(_MONO),
    )
    theme.set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0b0f19",
        block_background_fill="#ffffff",
        block_background_fill_dark="#151b2b",
        block_border_color="#e3e6eb",
        block_border_color_dark="#2a3246",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        slider_color="*primary_600",
    )
    return theme
