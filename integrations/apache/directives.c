// The directives of mod_sc.

#include "mod_sc.h"
#include <apr_strings.h>
#include <string.h>
#include <strings.h>

void *make_server_conf(apr_pool_t *p, server_rec *server) {
    (void)server;
    struct server_conf *conf = apr_pcalloc(p, sizeof *conf);
    conf->sessions = 4096;
    conf->request_max = SC_REQUEST_DEFAULT;
    conf->follows_tls = -1;
    return conf;
}

void *merge_server_conf(apr_pool_t *p, void *base, void *more) {
    struct server_conf *conf = apr_palloc(p, sizeof *conf);
    *conf = *(struct server_conf *)base;
    if (((struct server_conf *)more)->follows_tls >= 0) conf->follows_tls = ((struct server_conf *)more)->follows_tls;
    return conf;
}

void *make_dir_conf(apr_pool_t *p, char *dir) {
    (void)dir;
    return apr_pcalloc(p, sizeof(struct dir_conf));
}

void *merge_dir_conf(apr_pool_t *p, void *base, void *more) {
    struct dir_conf *conf = apr_palloc(p, sizeof *conf);
    *conf = *(struct dir_conf *)(((struct dir_conf *)more)->repeat ? more : base);
    return conf;
}

static const char *set_service(cmd_parms *cmd, void *dir, const char *name) {
    (void)dir;
    const char *why = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    if (why) return why;
    ((struct server_conf *)ap_get_module_config(cmd->server->module_config, &sc_module))->service = name;
    return NULL;
}

static const char *set_sessions(cmd_parms *cmd, void *dir, const char *text) {
    (void)dir;
    const char *why = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    if (why) return why;
    char *end;
    apr_int64_t count = apr_strtoi64(text, &end, 10);
    if (*end || count < 1 || count > 1000000) return "SCSessions: a number from 1 to 1000000 is expected";
    ((struct server_conf *)ap_get_module_config(cmd->server->module_config, &sc_module))->sessions = (int)count;
    return NULL;
}

static const char *set_request_max(cmd_parms *cmd, void *dir, const char *text) {
    (void)dir;
    const char *why = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    if (why) return why;
    char *end;
    apr_int64_t bytes = apr_strtoi64(text, &end, 10);
    if (*end || bytes < 65536 || bytes > SC_REQUEST_MAX) return "SCRequestMax: a number of bytes from 65536 to 16711680 is expected";
    ((struct server_conf *)ap_get_module_config(cmd->server->module_config, &sc_module))->request_max = (int)((bytes + 4095) / 4096 * 4096);
    return NULL;
}

static const char *set_tls(cmd_parms *cmd, void *dir, int is_on) {
    (void)dir;
    ((struct server_conf *)ap_get_module_config(cmd->server->module_config, &sc_module))->follows_tls = is_on;
    return NULL;
}

static const char *set_repeat(cmd_parms *cmd, void *dir, const char *text) {
    (void)cmd;
    struct dir_conf *conf = dir;
    if (strcasecmp(text, "safe") == 0) conf->repeat = REPEAT_SAFE;
    else if (strcasecmp(text, "all") == 0) conf->repeat = REPEAT_ALL;
    else if (strcasecmp(text, "none") == 0) conf->repeat = REPEAT_NONE;
    else return "SCRepeat: safe, all or none is expected";
    return NULL;
}

const command_rec directives[] = {
    AP_INIT_TAKE1("SCService", set_service, NULL, RSRC_CONF, "the service, as the agents' policies name it, whose sessions this server takes part with"),
    AP_INIT_TAKE1("SCSessions", set_sessions, NULL, RSRC_CONF, "how many connections are followed at once (4096)"),
    AP_INIT_TAKE1("SCRequestMax", set_request_max, NULL, RSRC_CONF, "how many bytes of requests under way are kept for each connection (1048576)"),
    AP_INIT_TAKE1("SCRepeat", set_repeat, NULL, RSRC_CONF | ACCESS_CONF, "which requests may be carried out again: safe (methods), all or none"),
    AP_INIT_FLAG("SCTLS", set_tls, NULL, RSRC_CONF, "whether connections with TLS 1.3 can move, and their keys with them (off)"),
    {NULL}};
