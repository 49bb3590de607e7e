"""What goes into the repository: options that users set, one of each kind, and shapes that the recorded cases lack."""

KEPT = set(
    """
    sched_ddpm_linspace_fixed_large sched_ddpm_v_zero_snr sched_ddpm_clip sched_ddpm_one sched_ddpm_class_defaults
    sched_ddim_v_linspace_eta sched_ddim_clip_eta sched_ddim_zero_snr_eta sched_ddim_one_trailing sched_ddim_class_defaults
    sched_pndm_v_trailing sched_pndm_linspace sched_pndm_two sched_pndm_prk_v
    sched_euler_karras_linspace sched_euler_v_linspace sched_euler_sigma_min_trailing sched_euler_v_zero_snr
    sched_euler_class_defaults sched_euler_ancestral_v_trailing sched_euler_ancestral_linspace sched_euler_ancestral_v_zero_snr
    sched_dpm_order3_heun_karras sched_dpm_order2_heun sched_dpm_order1_midpoint sched_dpm_v_trailing
    sched_dpm_order3_linspace_many sched_dpm_order3_no_lower_final_sigma_min_16 sched_dpm_order2_euler_at_final_8
    sched_dpm_sde_order2_midpoint sched_dpm_sde_order3_midpoint sched_dpm_order3_two
    sched_unipc_order3_bh2_7 sched_unipc_order2_bh1_sigma_min_7 sched_unipc_order3_bh2_karras_18 sched_unipc_v_trailing
    sched_unipc_no_corrector sched_unipc_order3_two sched_unipc_order2_predict_epsilon_sigma_min
    sched_lcm_seven sched_lcm_v sched_lcm_clip sched_lcm_origin100
    sched_add_noise_edges sched_add_noise_zero_snr
    tokenizer_end_pad tokenizer_bang_pad
    unet_small3_odd unet_tiny_sd2_odd unet_tiny_sdxl_odd
    lora_train_small3_conv_v_snr_accum lora_train_text_sd1 lora_train_text_sdxl lora_train_dora_sd1
    merge_ties_frequency merge_magnitude_prune_svd
    sample_img2img_one_step sample_tiny_sd1_overwritten_config sample_tiny_sdxl_prompt_2_clip_skip
    sample_tiny_sd2_rescale_zero_snr_eta
    """.split()
)
