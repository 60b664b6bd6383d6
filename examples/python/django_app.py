"""A Django project in one file, with a view that upscales.

python examples/python/django_app.py runserver
curl -F picture=@examples/astronaut.jpg 'http://127.0.0.1:8000/upscale?factor=2' -o large.png
"""

import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

import upscaled

# It starts no daemon before its first call, so each process of the server has its own, also with
# gunicorn's --preload.
up = upscaled.Upscaler()


@csrf_exempt  # an API; a form needs the token
@require_POST
def upscale(request: HttpRequest) -> HttpResponse:
    """The uploaded picture as a PNG."""
    upload = request.FILES.get("picture")
    if upload is None:
        return JsonResponse({"error": "no_picture"}, status=400)
    try:
        factor = float(request.GET.get("factor", 2))
        result = up.upscale(upload, bytes, factor=factor, timeout_s=300)
    except (upscaled.InputError, ValueError) as error:
        return JsonResponse({"error": getattr(error, "code", "invalid_factor")}, status=422)
    except upscaled.UpscaledError as error:
        # The sentence may hold paths of this machine: log it, and send the code.
        return JsonResponse({"error": error.code}, status=503 if error.retryable else 500)
    return HttpResponse(result.image, content_type="image/png")


urlpatterns = [path("upscale", upscale)]

if not settings.configured:
    settings.configure(DEBUG=False, ALLOWED_HOSTS=["127.0.0.1", "localhost"], ROOT_URLCONF=__name__)
    django.setup()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
