"""timm: one small model of each of its families; see vision_models for how, and for the command line.

A family is a module of timm.models and the leading word of the model's name; relabelled weights (tf_, gluon_, ssl_, ...) are none.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.conformance.vision_models import Case, image
from tests.conformance.vision_models import main as run_suite

# name, size of the image, `img` where the model is built for that size; the smallest of a few families is cut to fewer blocks
MODELS = """
beit_base_patch16_224 64 img, halonet_h1 256 img, mobileone_s1 64 img, cait_xxs24_224 64 img, coat_tiny 64 img,
convit_tiny 64 img, convmixer_768_32 64, convnext_zepto_rms 64, cpubone_nano 64, crossvit_tiny_240 64, csatv2 64,
cs3darknet_focus_s 64, cspnext_tiny 64, davit_tiny 64, deepseek_vit_412m 224 img depth=2,
deit_tiny_patch16_224 64 img, densenet121 64, dla46x_c 64, dpn48b 64, edgenext_xx_small 64,
efficientformer_l1 224 img, efficientformerv2_s0 64 img, mobilenetv2_035 64, efficientvim_m1 64, efficientvit_b0 64,
efficientvit_m0 64 img, vit_tiny_patch16_dinov3_qkvb 64 img, fasternet_t0 64, fastvit_s12 64, focalnet_tiny_srf 64,
gcvit_xxtiny 64 img, gemma4_vit_167m 64 img, ghostnet_050 64, hardcorenas_a 64, hgnetv2_b0 64, hiera_tiny_224 64 img,
sam2_hiera_tiny 64, hrnet_w18_small 64, iformer_t 64, inception_next_atto 64, inception_resnet_v2 96,
inception_v3 96, inception_v4 96, lcnetv2_small 64, levit_128s 64 img, lowformer_b0 64, mambaout_femto 64,
coatnet_nano_cc_224 64 img, poolformerv2_s12 64, gmixer_12_224 64 img, mobilenetv3_small_050 64, mobilenetv5_base 64,
mobilevit_xxs 64 img, mvitv2_tiny 64 img, naflexvit_base_patch16_gap 64 img, nasnetalarge 64, nest_tiny 64 img,
nextvit_small 64, nf_regnet_b0 64, pit_xs_224 64 img, pnasnet5large 64, pvt_v2_b0 64, qwen3_vit_88m 64 img,
rdnet_tiny 64, regnetx_002 64, repghostnet_050 64, repvit_m1 64 img, res2next50 64, resnest14d 64, resnet10t 64,
resnetv2_18 64, rexnet_100 64, selecsls42 64, legacy_seresnet18 64, sequencer2d_s 64 img, shvit_s1 64, skresnet18 64,
starnet_s1 64, swiftformer_xs 64 img, swin_tiny_patch4_window7_224 64 img, swinv2_tiny_window8_256 64 img,
swinv2_cr_tiny_224 64 img, tiny_vit_5m_224 64, tnt_s_legacy_patch16_224 64 img, tresnet_m 64, twins_svt_small 64 img,
vgg11 64, visformer_tiny 64 img, vit_tiny_patch16_224 64 img, vit_tiny_r_s16_p8_224 64 img,
vit_srelpos_small_patch16_224 64 img, samvit_base_patch16 64 img, vitamin_small_224 64 img, volo_d1_224 64 img,
ese_vovnet19b_slim 64, legacy_xception 96, xception41 64, xcit_nano_12_p8_224 64 img, beitv2_base_patch16_224 64 img,
eca_botnext26ts_256 64 img, gernet_s 64 img, convnextv2_atto 64, darknet17 64, densenetblur121d 64, mnasnet_small 64,
eva02_tiny_patch14_224 64 img, ghostnetv3_050 64, hgnet_tiny 64, hieradet_small 64, coatnext_nano_rw_224 64 img,
poolformer_s12 64, resmlp_12_224 64 img, lcnet_035 64, mobilevitv2_050 64 img, nf_resnet26 64, regnety_002 64,
resnetblur18 64, rexnetr_100 64, legacy_seresnext26_32x4d 64, skresnext50_32x4d 64, flexivit_small 64 img,
vovnet39a 64, eca_halonext26ts 256 img, repvgg_a0 64 img, cspresnext50 64, semnasnet_050 64,
maxvit_nano_rw_256 64 img, caformer_s18 64, mixer_s16_224 64 img, fbnetv3_d 64, nf_ecaresnet26 64, regnetz_005 64,
seresnet18 64, legacy_senet154 64, beit3_base_patch16_224 64 img, eca_vovnet39b 64, lambda_resnet26t 64 img,
regnetz_b16 64 img, sedarknet21 64, tinynet_d 64, maxxvit_rmlp_nano_rw_256 64 img, convformer_s18 64,
gmlp_s16_224 64 img, nf_seresnet26 64, regnetv_040 64, ecaresnext26t_32x4d 64, eva_large_patch14_196 64 img depth=2,
haloregnetz_b 224 img, resnext26ts 64 img, cspresnet50 64, mobilenet_edgetpu_100 64, maxxvitv2_nano_rw_256 64 img,
eca_nfnet_l0 64, ecaresnet26t 64, aimv2_large_patch14_224 64 img depth=2, botnet26t_256 64 img,
eca_resnext26ts 64 img, cspdarknet53 64, mixnet_s 64, nfnet_l0 64, seresnext26t_32x4d 64, sehalonet33ts 256 img,
seresnext26ts 64 img, darknetaa53 64, spnasnet_100 64, resnetaa34d 64, sebotnet33ts_256 64 img, gcresnext26ts 64 img,
efficientnet_lite0 64, resnext50_32x4d 64, lamhalobotnet50ts_256 128 img, bat_resnext26ts 256 img, fbnetc_100 64,
seresnetaa50d 64, halo2botnet50ts_256 128 img, resnet32ts 64 img, efficientnetv2_rw_t 64, ecaresnetlight 64,
eca_resnet33ts 64 img, gc_efficientnetv2_rw_t 64, resnetrs50 64, seresnet33ts 64 img, wide_resnet50_2 64,
gcresnet33ts 64 img, seresnextaa101d_32x8d 64, senet154 64
"""


def cases() -> list[Case]:
    found = []
    for line in MODELS.split("\n"):
        for entry in filter(None, line.split(",")):
            name, size, *more = entry.split()
            options = {"img_size": int(size)} if "img" in more else {}
            options |= {key: int(value) for key, _, value in (m.partition("=") for m in more) if value}
            found.append(_case(name, int(size), options))
    return found


def _case(name: str, size: int, options: dict[str, Any]) -> Case:
    import timm

    return Case(name, lambda: timm.create_model(name, pretrained=False, **options), image(size))


def main(arguments: list[str]) -> int:
    import timm
    import torch

    versions = {"torch": torch.__version__.split("+")[0], "timm": timm.__version__}
    return run_suite("timm", cases(), versions, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
