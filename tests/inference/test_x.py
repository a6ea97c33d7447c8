def test_x(tiny_model_dir):
    from vlv.models.vlv import VLV
    from PIL import Image
    m = VLV.from_pretrained(tiny_model_dir)
    print(m.caption([Image.new("RGB",(32,32),c) for c in ("red","blue","white")], max_new_tokens=20, num_beams=2))
    assert 0
