"""LinCIR's composition point, which passes its causal mask to the text encoder of transformers."""

import torch
from transformers import CLIPTextModelWithProjection


def encode_with_pseudo_tokens_HF(
    clip_model: CLIPTextModelWithProjection,
    text: torch.Tensor,
    pseudo_tokens: torch.Tensor,
    num_tokens=1,
    return_last_states=False,
):
    model = clip_model.text_model
    x = model.embeddings.token_embedding(text).type(clip_model.dtype)
    x = torch.where(text.unsqueeze(-1) == 259, pseudo_tokens.unsqueeze(1).type(x.dtype), x)
    x = x + model.embeddings.position_embedding(model.embeddings.position_ids)
    mask = torch.full((text.shape[1], text.shape[1]), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)
    output = model.encoder(
        inputs_embeds=x,
        attention_mask=None,
        causal_attention_mask=mask.expand(len(text), 1, -1, -1),
        output_attentions=False,
        output_hidden_states=False,
        return_dict=False,
    )
    states = model.final_layer_norm(output[0])
    features = clip_model.text_projection(states[torch.arange(len(states)), text.int().argmax(dim=-1)])
    return (features, states) if return_last_states else features
