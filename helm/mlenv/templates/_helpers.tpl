{{- define "mlenv.fullname" -}}
{{- .Values.fullnameOverride | default (printf "%s-operator" .Release.Name) | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "mlenv.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "mlenv.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "mlenv.selectorLabels" -}}
app.kubernetes.io/name: mlenv
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "mlenv.metaLabels" -}}
app.kubernetes.io/name: mlenv
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mlenv.labels" -}}
{{ include "mlenv.metaLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "mlenv.image" -}}
{{- $registry := .Values.image.registry | default .Values.global.imageRegistry -}}
{{- $prefix := ternary "" (printf "%s/" $registry) (empty $registry) -}}
{{- $suffix := ternary (printf ":%s" (.Values.image.tag | default .Chart.AppVersion)) (printf "@%s" .Values.image.digest) (empty .Values.image.digest) -}}
{{- printf "%s%s%s" $prefix .Values.image.repository $suffix -}}
{{- end -}}

{{/* Pods of the chart obey the pod security standard "restricted". */}}
{{- define "mlenv.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mlenv.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Hooks leave nothing behind, whether they succeed or fail. Context: root, hook, weight. */}}
{{- define "mlenv.hook" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end -}}

{{/* Pod fields of a hook's Job that runs the operator's image once. */}}
{{- define "mlenv.hookPod" -}}
restartPolicy: Never
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "mlenv.podSecurityContext" . | nindent 2 }}
{{- end -}}

{{- define "mlenv.hookContainer" -}}
image: {{ include "mlenv.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests:
    cpu: 50m
    memory: 64Mi
  limits:
    memory: 256Mi
securityContext:
  {{- include "mlenv.containerSecurityContext" . | nindent 2 }}
{{- end -}}
